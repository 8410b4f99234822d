"""Ranks that hold a frozen base and its adapter together learn, publish and go on as one does."""

import itertools
import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from learner.config import LearnerConfig
from rollout.shards import hash_file
from rollout.types import PolicyRef
from tests.learner.test_ranks import NUM_PAIRS, SMALL_PASSES, assert_close, fresh, one_and_many, rounds, weights
from tests.support.rank_processes import on_ranks
from tests.support.tiny_learner import base_of, learn, worker
from tests.support.tiny_models import random_sequences
from tests.support.tiny_pairs import random_pairs, write_pair_shard

LORA = {"rank": 4, "alpha": 8}
TREES = [(3, [7, 2, 5]), (1, [1, 4])]
ALONE = {**LORA, "publish": "adapter"}


def matrices(root, version):
    return load_file(root / f"policies/v{version:04d}/adapter_model.safetensors")


@pytest.mark.parametrize(
    ("num_ranks", "settings", "options"),
    [
        (2, {"lora": LORA, **SMALL_PASSES}, {}),
        (4, {"lora": ALONE, **SMALL_PASSES}, {"num_shards": 2, "gather_once": True}),
        (2, {"lora": ALONE, "reference": "ema", "ema_steps": 1}, {}),
    ],
    ids=str,
)
def test_many_ranks_train_an_adapter_as_one_does(tmp_path, num_ranks, settings, options):
    roots, steps, update, of_ranks = one_and_many(tmp_path, settings, num_ranks=num_ranks, **options)
    for ((own_steps, own_update),) in of_ranks:
        assert_close(own_steps, steps)
        assert own_update.metrics == pytest.approx(update.metrics, rel=1e-4, abs=1e-5)
        assert own_update.policy_out.kind == update.policy_out.kind
    assert abs(steps[-1]["loss"] - steps[0]["loss"]) > 1e-4  # far more than ranks may differ by
    assert (weights(roots[1], update.policy_out) - weights(roots[0], update.policy_out)).abs().max() < 1e-5
    if update.policy_out.kind == "adapter":
        one, many = (matrices(root, 1) for root in roots)
        assert one.keys() == many.keys()
        assert all((one[name] - many[name]).abs().max() < 1e-5 for name in one)
    held = json.loads((roots[1] / "learner/0000/state.json").read_text())["slices"]
    num_shards = options.get("num_shards", num_ranks)
    assert len(held) == num_shards
    assert all("lora_" in name for name in held[0])


def test_base_weights_in_bfloat16_learn_alike(tmp_path):
    """Blocks are gathered in bf16, and the adapter's masters and their gradients' sums stay float32."""
    settings = {"lora": ALONE, "compute_dtype": "bfloat16"}
    _, steps, _, of_ranks = one_and_many(tmp_path, settings, num_ranks=2)
    for ((own_steps, _),) in of_ranks:
        assert [s["loss"] for s in own_steps] == pytest.approx([s["loss"] for s in steps], abs=1e-2)
        assert [s["grad_norm"] for s in own_steps] == pytest.approx([s["grad_norm"] for s in steps], rel=0.05)


def test_an_adapter_goes_on_with_any_number_of_ranks(tmp_path):
    """The second round's reference is the base or, with round_start, the adapter as it came into the round."""
    settings = {"lora": ALONE, "reference": "round_start"}
    ends = {}
    for name, counts in {"one": [1, 1, 1], "many": [2, 4, 1]}.items():
        root = fresh(tmp_path / name)
        policy, seen = base_of(root), []
        for round_id, num_ranks in enumerate(counts):
            shard = write_pair_shard(root, random_pairs(7, round_id=round_id), round_id=round_id)
            if num_ranks == 1:
                ((steps, update),) = rounds(None, root, [shard], policy, settings)
            else:
                ((steps, update),) = on_ranks(num_ranks, rounds, root, [shard], policy, settings)[0]
            policy = update.policy_out
            seen.append(steps)
        ends[name] = (seen, matrices(root, 3))
    for ours, theirs in zip(ends["many"][0], ends["one"][0], strict=True):
        assert_close(ours, theirs)
    for name, tensor in ends["one"][1].items():
        torch.testing.assert_close(ends["many"][1][name], tensor, atol=1e-5, rtol=0)


def test_ranks_that_go_on_are_those_that_were_never_stopped(tmp_path):
    """In bf16: ranks that go on see the adapter switched off first, and sum its gradients in float32 all the same."""
    settings = {"lora": ALONE, "compute_dtype": "bfloat16"}
    files = ["learner/0001/state.json", "policies/v0002/adapter_model.safetensors"]
    found = []
    for name, restarts in (("undisturbed", [(0, 1)]), ("twice", [(0,), (1,)])):
        root = fresh(tmp_path / name)
        shards = [write_pair_shard(root, random_pairs(NUM_PAIRS, round_id=r), round_id=r) for r in (0, 1)]
        policy: PolicyRef = base_of(root)
        for own in restarts:
            policy = on_ranks(2, rounds, root, [shards[r] for r in own], policy, settings)[0][-1][1].policy_out
        found.append([hash_file(root / file) for file in files])
    assert found[0] == found[1]


def scores_of_all(ranks, root, shards, first, settings):
    """Log-probabilities under the base, under the first round's adapter and under the second's, which is resident."""
    learner, policies = worker(root, ranks=ranks, **settings), [first]
    for shard in shards:
        _, update = learn(learner, round_id=shard.round_id, shards=[shard], policy_in=policies[-1])
        policies.append(update.policy_out)
    return [np.concatenate(learner.score(random_sequences(TREES), policy=policy)) for policy in policies]


def test_any_adapter_of_the_run_is_scored_in_the_one_model(tmp_path):
    found = []
    for name in ("one", "many"):
        root = fresh(tmp_path / name)
        shards = [write_pair_shard(root, random_pairs(4, round_id=r), round_id=r) for r in (0, 1)]
        arguments = (root, shards, base_of(root), {"lora": ALONE, "num_epochs": 4})
        found.append(scores_of_all(None, *arguments) if name == "one" else on_ranks(2, scores_of_all, *arguments)[1])
    for ours, theirs in zip(found[1], found[0], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
    assert min(np.abs(a - b).max() for a, b in itertools.pairwise(found[0])) > 1e-2


def test_four_bits_on_many_ranks_are_refused():
    assert LearnerConfig(lora=LORA, num_ranks=2).num_shards == 2
    with pytest.raises(ValidationError, match="weights in 4 bits are not shared out"):
        LearnerConfig(lora={**LORA, "quantize": "nf4"}, num_ranks=2)
