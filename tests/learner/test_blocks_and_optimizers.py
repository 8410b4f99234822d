"""Options that trade memory for time leave the learning as it is, and those that cannot be had are refused."""

import copy
import sys

import pytest
import torch

from learner.blocks import apply_to_blocks, check_compiler, decoder_blocks
from learner.config import LearnerConfig
from learner.logps import CompletionLogps
from learner.optimizers import build_optimizer, fill_moments, moments_of
from rollout.errors import UsageError
from tests.support.tiny_learner import one_round, worker
from tests.support.tiny_models import random_sequences, tiny_model
from tests.support.tiny_pairs import random_pairs
from tests.support.tiny_policy import make_tiny_policy

TREES = [(3, [7, 2, 5]), (1, [1, 4]), (9, [6]), (2, [0, 3])]
CHECKPOINTED = LearnerConfig(activation_checkpointing="blocks")


def saved_bytes_and_gradients(settings, *, family="llama", packed=True, num_layers=2):
    """Bytes that autograd keeps until the backward pass (each storage once), log-probabilities and gradients."""
    model = tiny_model(family)
    if num_layers > 2:
        model.config.num_hidden_layers = num_layers
        model.get_decoder().layers.append(copy.deepcopy(decoder_blocks(model)[-1]))
    logps_of = CompletionLogps(model)
    logps_of.is_packed = packed
    apply_to_blocks(model, settings)
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logps_SC = logps_of(random_sequences(TREES)).logps_SC
    logps_SC.square().sum().backward()
    size_bytes = sum(storage.nbytes() for storage in kept.values())
    return size_bytes, logps_SC.detach(), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(("family", "packed"), [("llama", True), ("llama", False), ("gpt2", True), ("mistral", False)])
def test_checkpointed_blocks_give_the_same_bits_and_keep_a_fraction(family, packed):
    plain_bytes, plain_SC, plain_grads = saved_bytes_and_gradients(LearnerConfig(), family=family, packed=packed)
    kept_bytes, kept_SC, kept_grads = saved_bytes_and_gradients(CHECKPOINTED, family=family, packed=packed)
    assert torch.equal(kept_SC, plain_SC)
    assert all(torch.equal(one, other) for one, other in zip(kept_grads, plain_grads, strict=True))
    assert kept_bytes < 0.4 * plain_bytes


def test_each_further_checkpointed_block_keeps_its_input_alone():
    sizes = [saved_bytes_and_gradients(CHECKPOINTED, num_layers=num)[0] for num in (2, 3)]
    num_tokens = sum(num_prompt + sum(max(0, length - 1) for length in lengths) for num_prompt, lengths in TREES)
    assert sizes[1] - sizes[0] == num_tokens * 32 * 4  # hidden size 32, float32


def test_a_round_with_checkpointed_blocks_writes_the_same_bits(tmp_path):
    found = []
    for option in ("off", "blocks"):
        make_tiny_policy(tmp_path / option / "policies/v0000")
        _, update, _ = one_round(tmp_path / option, random_pairs(8), activation_checkpointing=option)
        found.append(update)
    assert found[0] == found[1]


def test_a_model_that_does_not_mark_its_blocks_is_refused():
    model = tiny_model("llama")
    model.model.layers = torch.nn.ModuleList([torch.nn.Identity()])
    with pytest.raises(UsageError, match="does not say which of its layers repeat"):
        decoder_blocks(model)


def test_compilation_without_a_compiler_is_refused_in_one_line(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=r"needs a C\+\+ compiler, got none of g\+\+, clang\+\+, c\+\+") as refused:
        apply_to_blocks(tiny_model("llama"), LearnerConfig(compile="blocks"))
    assert "\n" not in str(refused.value)
    check_compiler(torch.device("cuda"))


def test_8bit_moments_without_their_library_are_refused_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UsageError, match="adamw_8bit, which needs bitsandbytes") as refused:
        build_optimizer([torch.nn.Parameter(torch.zeros(2))], LearnerConfig(optimizer="adamw_8bit"))
    assert "\n" not in str(refused.value)


def stepped(kind, *, num_steps=5):
    """(parameter values, moments) after steps with the same gradients."""
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(100, 64)), torch.nn.Parameter(torch.randn(7))]
    optimizer = build_optimizer(parameters, LearnerConfig(optimizer=kind, learning_rate=1e-3))
    for _ in range(num_steps):
        for parameter in parameters:
            parameter.grad = torch.randn_like(parameter) + 0.3
        optimizer.step()
    return parameters, optimizer


@pytest.mark.parametrize("kind", ["adamw", "adamw_8bit"])
def test_moments_come_back_from_plain_tensors_bit_for_bit(kind):
    pytest.importorskip("bitsandbytes") if kind == "adamw_8bit" else None
    parameters, optimizer = stepped(kind)
    resumed, other = stepped(kind, num_steps=0)
    for old, new in zip(parameters, resumed, strict=True):
        fill_moments(other, new, {key: value.clone() for key, value in moments_of(optimizer, old).items()})
        new.data.copy_(old.data)
    for group in (parameters, resumed):
        for parameter in group:
            parameter.grad = torch.full_like(parameter, 0.1)
    optimizer.step()
    other.step()
    assert all(torch.equal(one, two) for one, two in zip(parameters, resumed, strict=True))


def test_moments_of_the_other_kind_are_refused():
    parameters, optimizer = stepped("adamw")
    moments = moments_of(optimizer, parameters[0])
    with pytest.raises(UsageError, match=r"moments of learner\.optimizer adamw_8bit, expected adamw"):
        fill_moments(optimizer, parameters[0], {"state1": moments["exp_avg"], "step": moments["step"]})


def test_8bit_moments_are_a_quarter_and_step_like_those_of_32_bits():
    pytest.importorskip("bitsandbytes")
    (full, optimizer), (small, other) = stepped("adamw"), stepped("adamw_8bit")
    assert (full[0] - small[0]).abs().max().item() < 5e-4  # of 5 steps of 1e-3
    sizes = [
        sum(value.nbytes for value in moments_of(one, parameter).values())
        for one, parameter in ((optimizer, full[0]), (other, small[0]))
    ]
    assert sizes[1] < 0.27 * sizes[0]


def test_a_resumed_8bit_learner_goes_on_bit_for_bit(tmp_path):
    pytest.importorskip("bitsandbytes")
    make_tiny_policy(tmp_path / "policies/v0000")
    settings = {"optimizer": "adamw_8bit"}
    _, update, learner = one_round(tmp_path, random_pairs(8), **settings)
    resumed = worker(tmp_path, **settings)
    resumed.prepare(update.policy_out)
    for name, parameter in learner.residence.trainer.parameters.items():
        moments = moments_of(learner.residence.trainer.optimizer, parameter)
        again = moments_of(resumed.residence.trainer.optimizer, resumed.residence.trainer.parameters[name])
        assert moments.keys() == again.keys()
        assert all(torch.equal(moments[key], again[key]) for key in moments)
    assert any(
        "absmax1" in moments_of(learner.residence.trainer.optimizer, p)
        for p in learner.residence.trainer.parameters.values()
    )
