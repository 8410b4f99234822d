"""A learner that lets its GPU go between rounds learns the same bits."""

import numpy as np
import pytest
import torch

from learner.offload import Offload
from rollout.types import TokenSequence
from tests.support.tiny_learner import base_of, learn, one_round, worker
from tests.support.tiny_pairs import random_pairs, write_pair_shard
from tests.support.tiny_policy import make_tiny_policy

CPU = torch.device("cpu")
KINDS = ["none", "optimizer", "all"]


def weights_and_moments(trainer):
    weights = {parameter.data_ptr() for parameter in trainer.model.parameters()}
    moments = {state["exp_avg"].data_ptr() for state in trainer.optimizer.state.values()}
    return weights, moments


def second_round(tmp_path, name, *, between, **settings):
    """What the second round writes, `between` having been done to the learner before it."""
    run_dir = tmp_path / name
    make_tiny_policy(run_dir / "policies/v0000")
    _, update, learner = one_round(run_dir, random_pairs(8), **settings)
    between(learner)
    shard = write_pair_shard(run_dir, random_pairs(8, round_id=1), round_id=1)
    steps, update = learn(learner, round_id=1, shards=[shard], policy_in=update.policy_out)
    return [step["loss"] for step in steps], update


@pytest.mark.parametrize("offload", KINDS)
@pytest.mark.parametrize("reference", ["base", "ema"])
def test_a_round_after_release_and_acquire_is_bit_identical(tmp_path, offload, reference):
    def released(learner):
        # As on a GPU, but for where the copies lie.
        learner.residence.offload = Offload(offload, device=CPU, to_host=torch.clone, to_device=torch.clone)
        learner.release()
        learner.release()
        learner.acquire()

    settings = {"reference": reference, "ema_steps": 1} if reference == "ema" else {"reference": reference}
    plain = second_round(tmp_path, "plain", between=lambda learner: None, **settings)
    assert second_round(tmp_path, "moved", between=released, offload=offload, **settings) == plain


def test_training_and_scoring_bring_back_what_was_released_and_scoring_lets_it_go_again(tmp_path):
    def only_released(learner):
        learner.residence.offload = Offload("all", device=CPU, to_host=torch.clone, to_device=torch.clone)
        learner.release()
        assert learner.residence.offload.is_released

    plain = second_round(tmp_path, "plain", between=lambda learner: None)
    assert second_round(tmp_path, "moved", between=only_released) == plain

    run_dir = tmp_path / "moved"
    learner = worker(run_dir)
    learner.prepare(base_of(run_dir))
    only_released(learner)
    row = TokenSequence(prompt_ids=np.array([7], np.int32), completion_ids=np.array([8, 9], np.int32))
    found = learner.score([row], policy=base_of(run_dir))
    assert learner.residence.offload.is_released
    learner.acquire()
    assert not learner.residence.offload.is_released
    np.testing.assert_array_equal(found, learner.score([row], policy=base_of(run_dir)))
    assert not learner.residence.offload.is_released


@pytest.mark.parametrize(("offload", "moves_weights"), [("optimizer", False), ("all", True)])
def test_what_is_named_moves_and_nothing_else(tmp_path, offload, moves_weights):
    make_tiny_policy(tmp_path / "policies/v0000")
    _, _, learner = one_round(tmp_path, random_pairs(8))
    trainer = learner.residence.trainer
    weights, moments = weights_and_moments(trainer)
    away = Offload(offload, device=CPU, to_host=torch.clone, to_device=torch.clone)
    away.release(trainer)
    now_weights, now_moments = weights_and_moments(trainer)
    assert now_moments.isdisjoint(moments)
    assert (now_weights != weights) is moves_weights
    assert all(parameter.grad is None for parameter in trainer.parameters.values())


@pytest.mark.parametrize("offload", KINDS)
def test_on_a_cpu_nothing_moves(tmp_path, offload):
    make_tiny_policy(tmp_path / "policies/v0000")
    _, _, learner = one_round(tmp_path, random_pairs(8), offload=offload)
    before = weights_and_moments(learner.residence.trainer)
    learner.release()
    assert weights_and_moments(learner.residence.trainer) == before
    assert not learner.residence.offload.is_released
