"""Two passes give the gradient of a loss that couples the batch, exactly."""

from dataclasses import replace

import pytest
import torch

from learner.loss import LOSSES
from learner.metrics import PassOutput
from learner.whole_batch import backward_whole_batch
from tests.support.tiny_logps import pairs_of

NUM = 7


def model():
    """Log-probabilities of each pair's two answers that depend on two parameters, and not linearly."""
    torch.manual_seed(0)
    inputs = torch.randn(4, NUM, dtype=torch.float64)
    weights = torch.tensor([0.7, -1.3], dtype=torch.float64, requires_grad=True)
    calls = []

    def forward(rows, loss):
        calls.append(len(rows))
        some = inputs[:, rows]
        columns = {
            "chosen_logp_B": -torch.exp(weights[0] * some[0] + weights[1] * some[1]),
            "rejected_logp_B": -torch.exp(weights[0] * some[2] + weights[1] * some[3]),
            "chosen_shared_logp_B": -torch.exp(weights[1] * some[0]),
            "rejected_shared_logp_B": -torch.exp(weights[0] * some[3]),
        }
        logps = replace(pairs_of(*[[0.0] * len(rows)] * 2, (-some[1].abs()).tolist(), some[2].tolist()), **columns)
        zero = torch.zeros(())
        return PassOutput(logps=logps, loss_B=loss(logps), sum_k1=zero, sum_k3=zero, num_completion_tokens=1)

    return weights, forward, calls


def aot(logps):
    return LOSSES["aot"](logps, beta=2.0, label_smoothing=0.1)


def everything(logps):
    """Every column times a function of all the others."""
    total = torch.logsumexp(logps.chosen_logp_B, 0) * logps.rejected_shared_logp_B.prod()
    return logps.rejected_logp_B * total + logps.chosen_shared_logp_B.square()


@pytest.mark.parametrize("loss", [aot, everything])
@pytest.mark.parametrize("passes", [[[0, 1, 2, 3, 4, 5, 6]], [[3, 1], [0, 2, 4, 6], [5]], [[i] for i in range(NUM)]])
def test_the_gradient_is_that_of_the_whole_batch(loss, passes):
    weights, forward, _ = model()
    rows = [row for some in passes for row in some]
    forward(rows, loss).loss_B.mean().backward()
    expected, weights.grad = weights.grad, None
    expected_B = forward(rows, loss).loss_B

    outputs = backward_whole_batch(passes, forward, loss)
    torch.testing.assert_close(weights.grad, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(torch.cat([output.loss_B for output in outputs]), expected_B, rtol=1e-12, atol=0)


def test_one_pass_is_run_once_and_several_twice():
    _, forward, calls = model()
    backward_whole_batch([[0, 1, 2]], forward, aot)
    assert calls == [3]
    backward_whole_batch([[0, 1], [2]], forward, aot)
    assert calls == [3, 2, 1, 2, 1]
