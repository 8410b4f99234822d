"""The tiled head gives the log-probabilities and gradients of the plain one, whatever the tiles and dtypes."""

import pytest
import torch

from learner.head import linear_logps, token_logps


def operands(dtype=torch.float64, num=13, size=8, vocab=31):
    torch.manual_seed(0)
    hidden_ND = torch.randn(num, size, dtype=dtype, requires_grad=True)
    weight_VD = torch.randn(vocab, size, dtype=dtype, requires_grad=True)
    bias_V = torch.randn(vocab, dtype=dtype, requires_grad=True)
    return hidden_ND, weight_VD, bias_V, torch.randint(0, vocab, (num,))


def plain(hidden_ND, weight_VD, bias_V, targets_N):
    logits_NV = hidden_ND @ weight_VD.T + (0 if bias_V is None else bias_V)
    return torch.log_softmax(logits_NV, dim=-1).gather(1, targets_N[:, None])[:, 0]


@pytest.mark.parametrize("tile_elements", [1, 5, 14, 10**6])
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_and_gradients_are_those_of_the_plain_head(tile_elements, with_bias):
    hidden_ND, weight_VD, bias_V, targets_N = operands(num=5, size=2, vocab=7)
    inputs = (hidden_ND, weight_VD, bias_V) if with_bias else (hidden_ND, weight_VD)

    def tiled(hidden, weight, bias=None):
        return linear_logps(hidden, weight, bias, targets_N, tile_elements=tile_elements)

    expected_N = plain(hidden_ND, weight_VD, bias_V if with_bias else None, targets_N)
    torch.testing.assert_close(tiled(*inputs), expected_N, atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(tiled, inputs)


def test_large_logits_do_not_overflow():
    hidden_ND, weight_VD, _, targets_N = operands(torch.float32)
    got_N = linear_logps(hidden_ND * 1e3, weight_VD, None, targets_N, tile_elements=40)
    expected_N = plain(hidden_ND.double() * 1e3, weight_VD.double(), None, targets_N)
    torch.testing.assert_close(got_N.double(), expected_N, atol=1e-2, rtol=1e-6)


def test_under_autocast_products_are_bf16_and_sums_are_fp32():
    hidden_ND, weight_VD, _, targets_N = operands(torch.float32, num=64, size=16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got_N = linear_logps(hidden_ND, weight_VD, None, targets_N, tile_elements=100)
    got_N.sum().backward()
    assert got_N.dtype == hidden_ND.grad.dtype == weight_VD.grad.dtype == torch.float32
    rounded = [tensor.detach().bfloat16().double().requires_grad_() for tensor in (hidden_ND, weight_VD)]
    expected_N = plain(*rounded, None, targets_N)
    expected_N.sum().backward()
    torch.testing.assert_close(got_N.double(), expected_N, atol=1e-5, rtol=0)
    torch.testing.assert_close(weight_VD.grad.double(), rounded[1].grad, atol=2e-2, rtol=1e-2)


def test_a_frozen_head_gets_no_gradient_and_hidden_states_still_do():
    hidden_ND, weight_VD, _, targets_N = operands()
    linear_logps(hidden_ND, weight_VD.detach(), None, targets_N).sum().backward()
    expected = torch.autograd.grad(plain(hidden_ND, weight_VD, None, targets_N).sum(), hidden_ND)[0]
    assert weight_VD.grad is None
    torch.testing.assert_close(hidden_ND.grad, expected)


def test_nothing_as_large_as_the_logits_is_saved_or_made():
    hidden_ND, weight_VD, _, targets_N = operands(torch.float32, num=256, vocab=4096)
    saved, made = [], []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            made.extend(one.numel() for one in (out if isinstance(out, tuple) else (out,)) if torch.is_tensor(one))
            return out

    def keep(tensor):
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), Sizes():
        linear_logps(hidden_ND, weight_VD, None, targets_N, tile_elements=2**14).sum().backward()
    assert max(saved) == weight_VD.numel()
    assert max(made) == weight_VD.numel() < 256 * 4096 / 16


@pytest.mark.parametrize("tile_elements", [1, 5, 14, 10**6])
def test_certainty_is_the_mean_probability_of_ones_own_draws_and_has_no_gradient(tile_elements):
    hidden_ND, weight_VD, bias_V, targets_N = operands(num=5, size=2, vocab=7)
    found = token_logps(hidden_ND, weight_VD, bias_V, targets_N, certainty=True, tile_elements=tile_elements)
    probabilities_NV = torch.softmax(hidden_ND @ weight_VD.T + bias_V, dim=-1)
    torch.testing.assert_close(found.certainty_N, probabilities_NV.square().sum(dim=-1).log(), atol=1e-12, rtol=0)
    assert not found.certainty_N.requires_grad
    plain_N = linear_logps(hidden_ND, weight_VD, bias_V, targets_N, tile_elements=tile_elements)
    inputs = (hidden_ND, weight_VD, bias_V)
    theirs = torch.autograd.grad(plain_N.square().sum(), inputs)
    for ours, other in zip(torch.autograd.grad(found.logps_N.square().sum(), inputs), theirs, strict=True):
        assert torch.equal(ours, other)


def test_certainty_by_hand():
    """Probabilities 1/2, 1/4, 1/4: 1/4 + 1/16 + 1/16 = 3/8; logits of a thousand: one token is certain."""
    weight_VD = torch.tensor([[2.0], [1.0], [1.0]], dtype=torch.float64).log()
    found = token_logps(torch.ones(1, 1, dtype=torch.float64), weight_VD, None, torch.tensor([0]), certainty=True)
    assert found.certainty_N.item() == pytest.approx(torch.tensor(3 / 8).log().item(), abs=1e-7)
    sure = token_logps(1e3 * torch.ones(1, 1), weight_VD.float(), None, torch.tensor([1]), certainty=True)
    assert sure.certainty_N.item() == pytest.approx(0.0, abs=1e-6)


def test_one_tile_is_kept_for_the_backward_pass_and_a_second_one_computes_it_again():
    hidden_ND, weight_VD, bias_V, targets_N = operands(num=5, size=2, vocab=7)
    inputs, found = (hidden_ND, weight_VD, bias_V), []
    for tile_elements in (5 * 7, 5 * 7 - 1):
        loss = linear_logps(*inputs, targets_N, tile_elements=tile_elements).square().sum()
        for _ in range(2):
            found.append(torch.autograd.grad(loss, inputs, retain_graph=True))
    assert all(map(torch.equal, found[0], found[1]))
    for gradients in found[1:]:
        for ours, first in zip(gradients, found[0], strict=True):
            torch.testing.assert_close(ours, first, atol=1e-12, rtol=0)
