"""Ranks that are many learn what one learns: real processes on gloo, step by step, with the same figures."""

import math
import os
import signal
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from learner.adaptive import ObjectiveState
from learner.config import LearnerConfig
from learner.dealing import dealt, passes_by_rank
from learner.errors import DivergedError
from learner.model import load_model
from learner.ranks import Rows, shard_rows
from learner.slices import SlicedTensors
from learner.state_writing import StateWriting, state_contents
from rollout.errors import InfraError, IntegrityError
from rollout.shards import hash_file
from rollout.types import TokenSequence
from tests.support.rank_processes import on_ranks
from tests.support.tiny_learner import base_of, learn, worker
from tests.support.tiny_pairs import random_pairs, write_pair_shard
from tests.support.tiny_policy import make_tiny_policy

# One batch of 4, 4, 4 and 1 pairs: passes of different lengths, and a step with fewer pairs than ranks.
NUM_PAIRS = 13
SMALL_PASSES = {"max_tokens_per_microbatch": 40}


def fresh(root, *, tie=True):
    make_tiny_policy(root / "policies/v0000", tie=tie)
    return root


def rounds(ranks, root, shards, first, settings):
    """Learn these rounds, from a new process's start; each one's steps, update and last log-probabilities."""
    found, policy = [], first
    learner = worker(root, ranks=ranks, **settings)
    for shard in shards:
        steps, update = learn(learner, round_id=shard.round_id, shards=[shard], policy_in=policy)
        policy = update.policy_out
        found.append(([{k: v for k, v in step.items() if k != "tokens_per_s"} for step in steps], update))
    return found


def one_and_many(tmp_path, settings, *, num_ranks, tie=True, **options):
    roots = [fresh(tmp_path / name, tie=tie) for name in ("one", "many")]
    shards = [write_pair_shard(root, random_pairs(NUM_PAIRS)) for root in roots]
    ((steps, update),) = rounds(None, roots[0], shards[:1], base_of(roots[0]), settings)
    arguments = (roots[1], shards[1:], base_of(roots[1]), settings)
    of_ranks = on_ranks(num_ranks, rounds, *arguments, **options)
    return roots, steps, update, of_ranks


def weights(root, policy):
    model = load_model(root / policy.path, device=torch.device("cpu"))
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def assert_close(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize(
    ("num_ranks", "settings"),
    [
        (2, {"loss": "sigmoid", **SMALL_PASSES}),
        (4, {"loss": "sigmoid"}),
        (2, {"loss": "aot", **SMALL_PASSES}),
        (2, {"loss": "kto", **SMALL_PASSES}),
        (2, {"loss": "sigmoid", "reference": "ema", "ema_steps": 2}),
        (2, {"loss": "ipo", "reference": "ema", "ema_steps": 1}),
        (2, {"loss": "sigmoid", "activation_checkpointing": "blocks", **SMALL_PASSES}),
        (2, {"loss": "sigmoid", "beta_dpo_alpha": 0.5, "beta_dpo_keep": 0.7, **SMALL_PASSES}),
    ],
    ids=str,
)
def test_many_ranks_measure_and_learn_what_one_does(tmp_path, num_ranks, settings):
    gather_once = settings.get("loss") != "sigmoid"
    roots, steps, update, of_ranks = one_and_many(tmp_path, settings, num_ranks=num_ranks, gather_once=gather_once)
    for ((own_steps, own_update),) in of_ranks:
        assert_close(own_steps, steps)
        assert own_update.num_steps == update.num_steps == 4
        assert own_update.metrics == pytest.approx(update.metrics, rel=1e-4, abs=1e-5)
    assert (weights(roots[1], update.policy_out) - weights(roots[0], update.policy_out)).abs().max() < 1e-5


def test_copies_of_a_model_on_two_nodes_learn_what_one_does(tmp_path):
    """HSDP: two nodes of two ranks, and a head of its own."""
    settings = {"loss": "sigmoid", **SMALL_PASSES}
    roots, steps, update, of_ranks = one_and_many(tmp_path, settings, num_ranks=4, num_shards=2, tie=False)
    for ((own_steps, _),) in of_ranks:
        assert_close(own_steps, steps)
    assert (weights(roots[1], update.policy_out) - weights(roots[0], update.policy_out)).abs().max() < 1e-5
    names = sorted(path.name for path in (roots[1] / "learner/0000").iterdir())
    assert [name for name in names if name.startswith("masters")] == [
        f"masters-0000{i}-of-00002.safetensors" for i in (0, 1)
    ]
    assert len([name for name in names if name.startswith("random")]) == 4

    damaged = roots[1] / "learner/0000/moments-00001-of-00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=damaged.name):
        worker(roots[1]).prepare(update.policy_out)


def test_learning_goes_on_with_any_number_of_ranks(tmp_path):
    """Rounds of 2, 4 and 1 ranks end where three rounds of one rank end; 2 ranks after 2 are the same bit for bit."""
    settings = {"loss": "sigmoid", "reference": "ema", "ema_steps": 2, "adam_betas": (0.9, 0.95)}
    ends = {}
    for name, counts in {"one": [1, 1, 1], "many": [2, 4, 1], "twice": [2, 2, 1]}.items():
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
        ends[name] = (seen, weights(root, policy))
    for name in ("many", "twice"):
        for ours, theirs in zip(ends[name][0], ends["one"][0], strict=True):
            assert_close(ours, theirs)
        assert (ends[name][1] - ends["one"][1]).abs().max() < 1e-5

    root = fresh(tmp_path / "undisturbed")
    shards = [write_pair_shard(root, random_pairs(7, round_id=r), round_id=r) for r in (0, 1)]
    both = on_ranks(2, rounds, root, shards, base_of(root), settings)[0]
    assert [steps for steps, _ in both] == ends["twice"][0][:2]
    files = ["learner/0001/state.json", "policies/v0002/model.safetensors"]
    assert [hash_file(root / file) for file in files] == [hash_file(tmp_path / "twice" / file) for file in files]


def dies(ranks, root, shards, policy, settings):
    learner = worker(root, ranks=ranks, **settings)
    with ranks.named():
        training = learner.train(round_id=0, shards=shards, policy_in=policy)
        next(training)
        if ranks.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in training:
            pass


def stops(ranks, root, shards, policy, settings):
    if ranks.rank != 1:
        return dies(ranks, root, shards, policy, settings)
    time.sleep(12)
    return None


@pytest.mark.parametrize(("work", "timeout_s"), [(dies, 30.0), (stops, 5.0)])
def test_a_rank_that_is_lost_is_named_by_the_others(tmp_path, work, timeout_s):
    root = fresh(tmp_path)
    shards = [write_pair_shard(root, random_pairs(NUM_PAIRS))]
    started = time.monotonic()
    found = on_ranks(3, work, root, shards, base_of(root), {}, timeout_s=timeout_s, may_die=True)
    assert time.monotonic() - started < 60
    for rank in (0, 2):
        assert isinstance(found[rank], InfraError), found
        assert "rank 1 of 3 died or no longer answers" in str(found[rank])


def diverges(ranks, root, shards, policy):
    learner = worker(root, ranks=ranks)
    learner.prepare(policy)
    if ranks.rank == 1:
        with torch.no_grad():
            next(iter(learner.residence.trainer.parameters.values())).fill_(math.nan)
    try:
        list(learner.train(round_id=0, shards=shards, policy_in=policy))
    except DivergedError as error:
        return str(error)
    return "did not diverge"


def test_all_ranks_stop_alike_where_a_loss_is_not_finite(tmp_path):
    root = fresh(tmp_path)
    shards = [write_pair_shard(root, random_pairs(NUM_PAIRS))]
    first, second = on_ranks(2, diverges, root, shards, base_of(root))
    assert first == second
    assert "step 1 has loss nan" in first
    assert (root / "rounds/0000/postmortem/step-0001.arrow").exists()


def test_rows_are_read_from_whichever_slices_hold_them(tmp_path):
    whole = torch.arange(14.0).reshape(7, 2)
    held = [shard_rows(7, shard=i, num_shards=3) for i in range(3)]
    assert [(rows.start, rows.stop) for rows in held] == [(0, 3), (3, 6), (6, 7)]
    for i, rows in enumerate(held):
        tensors = {"w": whole[rows.start : rows.stop], "w/step": torch.tensor(3.0), "w/packed": torch.tensor([1.0 * i])}
        save_file(tensors, tmp_path / f"masters-0000{i}-of-00003.safetensors")
    slices = [{"w": (rows.start, rows.stop)} for rows in held]
    with SlicedTensors(tmp_path, "masters.safetensors", slices) as saved:
        assert saved.shapes()["w"] == (7, 2)
        assert torch.equal(saved.read("w"), whole)
        for start in range(8):
            for stop in range(start, 8):
                assert torch.equal(saved.read("w", Rows(start=start, stop=stop, num=7)), whole[start:stop])
        assert saved.read("w/step", Rows(start=2, stop=4, num=7)) == 3.0
        assert saved.read("w/packed", held[1]) == 1.0
        with pytest.raises(IntegrityError, match="cannot be shared out anew"):
            saved.read("w/packed", Rows(start=0, stop=7, num=7))


def test_a_state_is_there_only_once_it_is_committed(tmp_path):
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = torch.optim.AdamW([parameter])
    contents = state_contents({"w": parameter}, optimizer, random_states={"cpu": torch.get_rng_state()})
    with StateWriting(tmp_path / "0000", contents) as writing:
        writing._written.result()
        assert not (tmp_path / "0000").exists()
        writing.commit(version=1, num_steps=0, objective=ObjectiveState())
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "masters.safetensors",
        "moments.safetensors",
        "random.safetensors",
        "state.json",
    ]


def test_ranks_that_do_not_fill_their_nodes_are_refused():
    with pytest.raises(ValueError, match="expected ranks_per_node to divide num_ranks"):
        LearnerConfig(num_ranks=4, ranks_per_node=3)
    assert LearnerConfig(num_ranks=4, ranks_per_node=2).num_shards == 2
    assert LearnerConfig(num_ranks=4, ranks_per_node=8).num_shards == 4


def items_of(lengths, *, prompts=None):
    def ids(num):
        return np.arange(num, dtype=np.int32)

    prompts = prompts or [[i + 1] for i in range(len(lengths))]
    return [
        (TokenSequence(prompt_ids=np.asarray(prompt, np.int32), completion_ids=ids(num)),)
        for num, prompt in zip(lengths, prompts, strict=True)
    ]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 6))
def test_every_item_is_dealt_once_and_shares_are_even(lengths, num_ranks):
    shares = dealt(items_of(lengths), num_ranks=num_ranks)
    assert sorted(i for share in shares for i in share) == list(range(len(lengths)))
    held = [sum(lengths[i] + 1 for i in share) for share in shares]
    assert max(held) - min(held) <= max(lengths) + 1
    assert shares == dealt(items_of(lengths), num_ranks=num_ranks)


def test_items_of_one_prompt_stay_together_unless_they_are_more_than_a_share():
    items = items_of([5, 5, 5, 5, 5, 5], prompts=[[1], [2], [1], [2], [3], [3]])
    assert sorted(dealt(items, num_ranks=3)) == [[0, 2], [1, 3], [4, 5]]
    assert sorted(map(len, dealt(items_of([5] * 6, prompts=[[1]] * 6), num_ranks=3))) == [2, 2, 2]


def test_all_ranks_have_equally_many_passes():
    passes = passes_by_rank(items_of([30, 1, 1]), lambda share: [[i] for i in range(len(share))], num_ranks=2)
    assert passes == [[[0], []], [[1], [2]]]
