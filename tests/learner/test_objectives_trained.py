"""Objectives as the learner trains them: passes, one-sided rows, ties, references, and resumes bit for bit."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from learner.model import load_model
from learner.pairs import Trainable, mismatched, trainable
from rollout.errors import IntegrityError
from rollout.shards import hash_file, hash_policy
from rollout.types import PolicyRef
from tests.support.tiny_learner import base_of, learn, one_round, worker
from tests.support.tiny_pairs import make_pair, random_pairs, write_pair_shard
from tests.support.tiny_policy import make_tiny_policy


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("policy") / "v0000")


@pytest.fixture
def run_dir(tmp_path, made_once):
    shutil.copytree(made_once, tmp_path / "policies/v0000")
    return tmp_path


def files_of(folder):
    return {path.name: hash_file(path) for path in sorted(folder.iterdir())}


def test_beta_dpo_is_exact_over_passes_and_reports_its_beta(run_dir):
    settings = {"beta_dpo_alpha": 0.6, "learning_rate": 1e-3}
    whole = one_round(run_dir, random_pairs(12), **settings)[0]
    parts = one_round(run_dir, random_pairs(12), **settings, max_tokens_per_microbatch=60)[0]
    assert [s["loss"] for s in parts] == pytest.approx([s["loss"] for s in whole], abs=1e-5)
    assert [s["grad_norm"] for s in parts] == pytest.approx([s["grad_norm"] for s in whole], rel=1e-3)
    betas = [s["beta"] for s in whole]
    assert betas[0] == pytest.approx(0.1, abs=1e-6)
    assert betas[1] == pytest.approx(0.1 * (1 + 0.6 * (whole[1]["reward_margin"] - 0.1 * whole[0]["reward_margin"])))
    assert betas[2] != betas[1]


STATEFUL = {
    "bco_pair": {"loss": "bco_pair"},
    "ema": {"reference": "ema", "ema_alpha": 0.3, "ema_steps": 2},
    "hard": {"reference": "ema", "ema_alpha": 1.0, "ema_steps": 2},
    "kl_target": {"kl_target": 0.01, "kl_gain": 0.5},
    "beta_dpo": {"beta_dpo_alpha": 0.6, "beta_dpo_keep": 0.5},
    "kto": {"loss": "kto"},
    "mixture": {"loss": [{"name": "sigmoid", "weight": 0.8}, {"name": "bco_pair", "weight": 0.2}], "nll_weight": 1.0},
}


@pytest.mark.parametrize("settings", STATEFUL.values(), ids=STATEFUL)
def test_a_resumed_objective_goes_on_bit_for_bit(run_dir, settings):
    shards = [write_pair_shard(run_dir, random_pairs(9, round_id=r), round_id=r) for r in (0, 1)]
    learner, policy, results = worker(run_dir, **settings), base_of(run_dir), []
    for round_id in (0, 1):
        steps, update = learn(learner, round_id=round_id, shards=[shards[round_id]], policy_in=policy)
        losses = [step["loss"] for step in steps]
        results.append((losses, update, files_of(run_dir / f"learner/000{round_id}")))
        policy = update.policy_out
    resumed = worker(run_dir, **settings)
    steps, update = learn(resumed, round_id=1, shards=[shards[1]], policy_in=results[0][1].policy_out)
    assert ([step["loss"] for step in steps], update, files_of(run_dir / "learner/0001")) == results[1]
    assert resumed.residence.trainer.objective == learner.residence.trainer.objective


@pytest.mark.parametrize("forgotten", ["objective", "reference"])
def test_without_what_is_remembered_it_would_not(run_dir, forgotten, monkeypatch):
    settings = STATEFUL["bco_pair" if forgotten == "objective" else "ema"]
    shards = [write_pair_shard(run_dir, random_pairs(9, round_id=r), round_id=r) for r in (0, 1)]
    learner = worker(run_dir, **settings)
    _, first = learn(learner, round_id=0, shards=[shards[0]], policy_in=base_of(run_dir))
    expected, _ = learn(learner, round_id=1, shards=[shards[1]], policy_in=first.policy_out)
    resumed = worker(run_dir, **settings)
    resumed.prepare(first.policy_out)
    if forgotten == "objective":
        resumed.residence.trainer.objective = type(resumed.residence.trainer.objective)()
    else:
        base = load_model(run_dir / "policies/v0000", device=torch.device("cpu"))
        resumed.residence.trainer.moving.load(dict(base.named_parameters()))
    steps, _ = learn(resumed, round_id=1, shards=[shards[1]], policy_in=first.policy_out)
    assert [s["loss"] for s in steps] != [s["loss"] for s in expected]


def test_a_moving_reference_moves_when_due_by_its_share_and_never_learns(run_dir):
    learner = worker(run_dir, reference="ema", ema_alpha=0.3, ema_steps=2)
    training = learner.train(
        round_id=0, shards=[write_pair_shard(run_dir, random_pairs(12))], policy_in=base_of(run_dir)
    )
    start = {
        name: p.detach().clone()
        for name, p in load_model(run_dir / "policies/v0000", device=torch.device("cpu")).named_parameters()
    }
    next(training)
    moving = learner.residence.trainer.moving
    assert all(torch.equal(p, start[name]) for name, p in moving.tensors.items())
    next(training)
    for name, p in moving.tensors.items():
        expected = 0.7 * start[name] + 0.3 * learner.residence.trainer.parameters[name].detach()
        torch.testing.assert_close(p, expected, atol=1e-6, rtol=0)
        assert not p.requires_grad
    learnt = {id(p) for group in learner.residence.trainer.optimizer.param_groups for p in group["params"]}
    assert learnt.isdisjoint(id(p) for p in moving.tensors.values())
    assert not (run_dir / "rounds/0000/reference").exists()
    training.close()


def test_a_hard_update_is_the_policy_itself(run_dir):
    steps, _, learner = one_round(run_dir, random_pairs(8), reference="ema", ema_alpha=1.0, ema_steps=1)
    trainer = learner.residence.trainer
    assert all(torch.equal(p, trainer.parameters[name]) for name, p in trainer.moving.tensors.items())
    # Against a copy of the policy itself every step's loss is ln 2.
    assert [s["loss"] for s in steps] == pytest.approx([np.log(2)] * 2, abs=1e-6)


def test_an_altered_moving_reference_is_refused_by_name(run_dir):
    _, update, _ = one_round(run_dir, random_pairs(4), reference="ema", ema_steps=1)
    file = run_dir / "learner/0000/reference.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"reference\.safetensors was truncated"):
        worker(run_dir, reference="ema", ema_steps=1).prepare(update.policy_out)


@pytest.mark.parametrize("settings", [{"loss": "simpo"}, {"loss": "orpo", "reference": "none"}])
def test_a_loss_without_reference_computes_none(run_dir, settings, monkeypatch):
    monkeypatch.setattr("learner.residence.score", None)
    steps, update, _ = one_round(run_dir, random_pairs(8), **settings, beta=2.0, num_epochs=6)
    assert not (run_dir / "rounds/0000/reference").exists()
    assert not {"kl", "kl_k1", "kl_k3", "ref_token_logp_chosen"} & set(update.metrics)
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert steps[-1]["reward_accuracy"] == 1.0


def one_sided(pair, missing):
    return replace(pair, **{f"{missing}_ids": None, missing: None, f"{missing}_logps": None})


def mixed_rows():
    pairs = random_pairs(6)
    return [*pairs[:2], *(one_sided(p, "rejected") for p in pairs[2:4]), *(one_sided(p, "chosen") for p in pairs[4:])]


def test_kto_learns_from_rows_with_one_answer(run_dir):
    pairs = mixed_rows()
    steps, update, _ = one_round(run_dir, pairs, loss="kto", batch_pairs=6, num_epochs=8)
    assert update.num_pairs == 6
    assert "num_rejected_pair_unpaired" not in update.metrics
    # At the reference every answer costs 1 - S(0), and 2 + 1 + 1 of them are chosen.
    assert steps[0]["loss"] == pytest.approx(0.5, abs=1e-5)
    assert steps[-1]["loss"] < 0.49
    assert steps[-1]["reward_chosen"] > 0 > steps[-1]["reward_rejected"]
    assert one_round(run_dir, pairs, loss="sigmoid")[1].metrics["num_rejected_pair_unpaired"] == 4


def test_kto_weighs_answers_and_not_rows(run_dir):
    """Three desirable answers and one undesirable one in three rows, with weights 1 and 0: 3/4 of one half."""
    pairs = random_pairs(3)
    rows = [pairs[0], one_sided(pairs[1], "rejected"), one_sided(pairs[2], "rejected")]
    for max_tokens in (16384, 1):
        settings = {"loss": "kto", "undesirable_weight": 0.0, "max_tokens_per_microbatch": max_tokens}
        steps, _, _ = one_round(run_dir, rows, **settings)
        assert steps[0]["loss"] == pytest.approx(0.5 * 3 / 4, abs=1e-5)


def test_mismatched_answers_are_those_of_another_prompt_that_fit():
    pairs, _ = trainable(
        [
            make_pair("a", [7], [8, 8], [9]),
            make_pair("a2", [7], [10], [11]),
            make_pair("b", [6], [12] * 30, [13]),
            make_pair("c", [5], [14], [15, 15]),
        ],
        max_length=None,
    )
    found = mismatched(pairs, max_length=10)
    assert [list(m.chosen.prompt_ids) for m in found] == [[7], [7], [6], [5]]
    assert [list(m.chosen.completion_ids) for m in found] == [[14], [14], [14], [8, 8]]
    assert [list(m.rejected.completion_ids) for m in found] == [[15, 15], [15, 15], [15, 15], [9]]
    assert mismatched(pairs[:2], max_length=10) == [None, None]


def test_ties_are_learnt_by_the_loss_that_knows_them(run_dir):
    pairs = [*random_pairs(2), *(replace(p, outcome="tie") for p in random_pairs(2, seed=1))]
    steps, update, _ = one_round(run_dir, pairs, loss="rao_kupper")
    assert update.num_pairs == 4
    # At the reference: log 4 for a win; log 4 + log 4 - log 8 for a tie.
    assert steps[0]["loss"] == pytest.approx((2 * np.log(4) + 2 * np.log(2)) / 4, abs=1e-5)
    for other in ("sigmoid", ["rao_kupper", "sigmoid"]):
        assert one_round(run_dir, pairs, loss=other)[1].metrics["num_rejected_pair_unpaired"] == 2


def test_accuracy_is_that_of_decided_pairs(run_dir):
    pairs = [replace(p, outcome="tie") for p in random_pairs(4)]
    steps, _, _ = one_round(run_dir, pairs, loss="rao_kupper")
    assert not {"reward_accuracy", "reward_margin", "reward_margin_spread"} & set(steps[0])
    assert "reward_chosen" in steps[0]


def test_stale_pairs_weigh_what_the_policy_still_gives_them(run_dir):
    """Sampled at exactly the policy's own log-probabilities every weight is 1; twice as likely then, it is 1/4 of a
    pair's loss, as both answers count."""
    pairs = random_pairs(4)
    learner = worker(run_dir)
    tokens, _ = trainable(pairs, max_length=None)
    logps = learner.score([side for pair in tokens for side in (pair.chosen, pair.rejected)], policy=base_of(run_dir))

    def with_sampled(change):
        return [
            replace(pair, chosen_logps=logps[2 * i] + change / len(logps[2 * i]),
                    rejected_logps=logps[2 * i + 1] + change / len(logps[2 * i + 1]))
            for i, pair in enumerate(pairs)
        ]  # fmt: skip

    fresh, _, _ = one_round(run_dir, with_sampled(0.0), staleness_weights="sequence")
    stale, _, _ = one_round(run_dir, with_sampled(np.log(2)), staleness_weights="sequence")
    assert fresh[0]["loss"] == pytest.approx(np.log(2), abs=1e-4)
    assert stale[0]["loss"] == pytest.approx(np.log(2) / 4, abs=1e-4)


def test_pairs_without_sampled_log_probabilities_cannot_be_weighed_and_are_counted():
    bare = replace(random_pairs(1)[0], chosen_logps=None, rejected_logps=None)
    assert trainable([bare], max_length=None, rows=Trainable(sampled=True)) == ([], {"pair_unsampled": 1})
    assert len(trainable([bare], max_length=None)[0]) == 1


def test_a_kl_target_raises_beta_while_the_policy_is_too_far(run_dir):
    steps, _, learner = one_round(run_dir, random_pairs(12), kl_target=1e-6, kl_gain=0.5, num_epochs=2)
    betas = [s["beta"] for s in steps]
    assert betas[0] == 0.1
    assert learner.residence.trainer.objective.beta_scale != 1.0
    state = worker(run_dir, kl_target=1e-6, kl_gain=0.5)
    state.prepare(PolicyRef(version=1, path="policies/v0001", sha256=hash_policy(run_dir / "policies/v0001")))
    assert state.residence.trainer.objective == learner.residence.trainer.objective


def test_what_should_be_said_of_a_round_travels_with_its_update(run_dir):
    _, update, _ = one_round(run_dir, random_pairs(4), beta=0.01)
    assert update.warnings[0].startswith("learner.beta 0.01")
