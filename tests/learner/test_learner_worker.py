"""Rounds of learning: what is counted, refused, kept bit for bit, and left for a post-mortem."""

import math
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch

from learner.batches import pad
from learner.config import LearnerConfig
from learner.errors import DivergedError
from learner.logps import completion_logps
from learner.lora_config import LoraConfig
from learner.model import load_model
from learner.pairs import trainable
from learner.reference import with_reference
from learner.schedule import Position, learning_rate
from learner.worker import LearnerWorker
from rollout.errors import IntegrityError, UsageError
from rollout.shards import hash_file, hash_policy
from rollout.types import PolicyRef, TokenSequence
from tests.support.tiny_pairs import SIGNATURE, make_pair, random_pairs, write_pair_shard
from tests.support.tiny_policy import make_tiny_policy

MERGED = {"lora": LoraConfig(rank=4, alpha=8)}
ALONE = {"lora": LoraConfig(rank=4, alpha=8, publish="adapter")}
# Learning repeats and resumes whatever of a policy is trained and published.
TRAINED = pytest.mark.parametrize("trained", [{}, MERGED, ALONE], ids=["all weights", "merged", "adapter alone"])
SETTINGS = LearnerConfig(learning_rate=1e-3, batch_pairs=4, compute_dtype="float32", device="cpu")


@pytest.fixture
def run_dir(tmp_path):
    make_tiny_policy(tmp_path / "policies/v0000")
    return tmp_path


def base_of(run_dir):
    return PolicyRef(version=0, path="policies/v0000", sha256=hash_policy(run_dir / "policies/v0000"))


def worker(run_dir, **changed):
    settings = SETTINGS.model_copy(update=changed)
    return LearnerWorker(
        settings=settings, run_dir=run_dir, base=base_of(run_dir), seed=17, policy_dtype="float32", num_rounds=3
    )


def learn(learner, **arguments):
    """All steps and the update of one round."""
    steps, training = [], learner.train(**arguments)
    while True:
        try:
            steps.append(next(training))
        except StopIteration as done:
            return steps, done.value


def files_of(folder):
    return {path.name: hash_file(path) for path in sorted(folder.iterdir())}


def test_a_round_learns_the_preference_and_reports_it(run_dir):
    shard = write_pair_shard(run_dir, random_pairs(10))
    steps, update = learn(worker(run_dir, num_epochs=8), round_id=0, shards=[shard], policy_in=base_of(run_dir))
    assert (update.num_steps, update.num_pairs, len(steps)) == (24, 10, 24)
    assert [step.values["num_pairs"] for step in steps[:3]] == [4, 4, 2]
    first, last = steps[0].values, steps[-1].values
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["kl"] == pytest.approx(0, abs=1e-4)
    assert last["loss"] < 0.6
    assert last["reward_accuracy"] == 1.0
    assert last["reward_margin"] == pytest.approx(last["reward_chosen"] - last["reward_rejected"], abs=1e-5)
    assert last["kl_k3"] > 0
    assert update.policy_out.version == 1
    assert hash_policy(run_dir / update.policy_out.path) == update.policy_out.sha256
    assert update.metrics["published_share"] == pytest.approx(1.0, abs=1e-6)
    assert "tokens_per_s" in last
    assert "tokens_per_s" not in update.metrics


@TRAINED
def test_twenty_steps_are_the_same_bit_for_bit(run_dir, trained):
    shard = write_pair_shard(run_dir, random_pairs(20))
    results = []
    for _ in range(2):
        learner = worker(run_dir, num_epochs=4, **trained)
        steps, update = learn(learner, round_id=0, shards=[shard], policy_in=base_of(run_dir))
        assert len(steps) == 20
        values = [{k: v for k, v in step.values.items() if k != "tokens_per_s"} for step in steps]
        results.append((values, update, files_of(run_dir / "learner/0000"), files_of(run_dir / "policies/v0001")))
    assert results[0] == results[1]


@TRAINED
@pytest.mark.parametrize("reference", ["base", "round_start", "ema"])
def test_a_resumed_learner_goes_on_bit_for_bit(run_dir, reference, trained):
    settings = {"reference": reference, "ema_steps": 2 if reference == "ema" else 64, **trained}
    if trained != ALONE:
        settings["publish_dtype"] = "bfloat16"
    shards = [write_pair_shard(run_dir, random_pairs(9, round_id=r), round_id=r) for r in (0, 1)]
    learner = worker(run_dir, **settings)
    policy, results = base_of(run_dir), []
    for round_id in (0, 1):
        steps, update = learn(learner, round_id=round_id, shards=[shards[round_id]], policy_in=policy)
        results.append(([step.values["loss"] for step in steps], update, files_of(run_dir / f"learner/000{round_id}")))
        policy = update.policy_out
    shutil.rmtree(run_dir / "rounds/0001/reference", ignore_errors=True)
    resumed = worker(run_dir, **settings)
    steps, update = learn(resumed, round_id=1, shards=[shards[1]], policy_in=results[0][1].policy_out)
    assert ([step.values["loss"] for step in steps], update, files_of(run_dir / "learner/0001")) == results[1]
    assert resumed.num_steps == 6
    if reference == "round_start":
        assert steps[0].values["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_learning_goes_on_from_the_masters_not_from_the_published_weights(run_dir):
    """From a bfloat16 base, with steps too small for bfloat16, published weights lag while the masters move on."""
    model = load_model(run_dir / "policies/v0000", device=torch.device("cpu"), dtype=torch.bfloat16)
    model.save_pretrained(run_dir / "policies/v0000")
    settings = {"learning_rate": 1e-6, "publish_dtype": "bfloat16"}
    learner, policy, masters = worker(run_dir, **settings), base_of(run_dir), []
    for round_id in (0, 1):
        shard = write_pair_shard(run_dir, random_pairs(8, round_id=round_id), round_id=round_id)
        _, update = learn(learner, round_id=round_id, shards=[shard], policy_in=policy)
        policy = update.policy_out
        assert update.metrics["published_share"] < 0.5
        assert update.metrics["published_elements"] < 0.1
        masters.append({name: p.detach().clone() for name, p in learner.residence.trainer.parameters.items()})
    start = load_model(run_dir / "policies/v0000", device=torch.device("cpu"))
    moved = [
        sum((after[name] - p.detach()).square().sum().item() for name, p in start.named_parameters()) ** 0.5
        for after in masters
    ]
    assert 0 < moved[0] < moved[1] < 2.5 * moved[0]


@TRAINED
def test_training_left_half_way_starts_again_from_the_files(run_dir, trained):
    shard = write_pair_shard(run_dir, random_pairs(8))
    learner = worker(run_dir, **trained)
    training = learner.train(round_id=0, shards=[shard], policy_in=base_of(run_dir))
    next(training)
    training.close()
    _, update = learn(learner, round_id=0, shards=[shard], policy_in=base_of(run_dir))
    assert update == learn(worker(run_dir, **trained), round_id=0, shards=[shard], policy_in=base_of(run_dir))[1]


def test_the_order_of_shards_does_not_matter(run_dir, monkeypatch):
    pairs = random_pairs(8)
    shards = [write_pair_shard(run_dir, pairs[:3]), write_pair_shard(run_dir, pairs[3:], chunk_id=1)]
    _, update = learn(worker(run_dir), round_id=0, shards=shards, policy_in=base_of(run_dir))
    monkeypatch.setattr("learner.residence.score", None)  # the reference, too, is found again
    _, reversed_update = learn(worker(run_dir), round_id=0, shards=shards[::-1], policy_in=base_of(run_dir))
    assert reversed_update == update


def test_the_split_into_passes_leaves_the_loss_unchanged(run_dir):
    shard = write_pair_shard(run_dir, random_pairs(16))
    losses = []
    for max_tokens in (16384, 100, 1):
        settings = {"max_tokens_per_microbatch": max_tokens, "batch_pairs": 8, "learning_rate": 1e-4}
        steps, _ = learn(worker(run_dir, **settings), round_id=0, shards=[shard], policy_in=base_of(run_dir))
        losses.append([step.values["loss"] for step in steps])
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert losses[2] == pytest.approx(losses[0], abs=1e-6)


def test_gradients_are_clipped_to_the_global_norm(run_dir):
    learner = worker(run_dir, max_grad_norm=0.01)
    shard = write_pair_shard(run_dir, random_pairs(4))
    steps, _ = learn(learner, round_id=0, shards=[shard], policy_in=base_of(run_dir))
    assert steps[0].values["grad_norm"] > 1
    moments = [state["exp_avg"].square().sum().item() for state in learner.residence.trainer.optimizer.state.values()]
    assert sum(moments) ** 0.5 == pytest.approx((1 - 0.9) * 0.01, rel=1e-3)


def test_bfloat16_products_leave_the_masters_in_float32(run_dir):
    shard, losses = write_pair_shard(run_dir, random_pairs(8)), {}
    for dtype in ("float32", "bfloat16"):
        learner = worker(run_dir, compute_dtype=dtype)
        steps, _ = learn(learner, round_id=0, shards=[shard], policy_in=base_of(run_dir))
        losses[dtype] = [step.values["loss"] for step in steps]
        assert {p.dtype for p in learner.residence.trainer.parameters.values()} == {torch.float32}
    assert losses["bfloat16"] != losses["float32"]
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.05)


def test_pairs_that_cannot_be_trained_are_counted_not_cut(run_dir):
    pairs = [
        *random_pairs(3),
        make_pair("long", [7] * 10, [8] * 40, [9]),
        make_pair("tie", [7], [8], [9], outcome="tie"),
        replace(make_pair("one-sided", [7], [8], [9]), rejected_ids=None, rejected=None, rejected_logps=None),
    ]
    shard = write_pair_shard(run_dir, pairs)
    _, update = learn(worker(run_dir, max_length=49), round_id=0, shards=[shard], policy_in=base_of(run_dir))
    assert update.num_pairs == 3
    assert update.metrics["num_rejected_pair_too_long"] == 1
    assert update.metrics["num_rejected_pair_unpaired"] == 2


def test_the_context_bounds_a_pair_where_max_length_does_not(run_dir):
    shard = write_pair_shard(run_dir, [make_pair("long", [7] * 10, [8] * 503, [9]), *random_pairs(1)])
    _, update = learn(worker(run_dir), round_id=0, shards=[shard], policy_in=base_of(run_dir))
    assert (update.num_pairs, update.metrics["num_rejected_pair_too_long"]) == (1, 1)


def test_a_round_without_pairs_gives_back_the_policy(run_dir):
    shard = write_pair_shard(run_dir, [])
    steps, update = learn(worker(run_dir), round_id=0, shards=[shard], policy_in=base_of(run_dir))
    assert (steps, update.num_steps, update.num_pairs, update.policy_out) == ([], 0, 0, base_of(run_dir))
    assert not (run_dir / "learner").exists()


def test_shards_of_another_tokenizer_are_refused(run_dir):
    other = replace(SIGNATURE, stop_ids=(1, 2))
    shards = [write_pair_shard(run_dir, random_pairs(2))]
    shards.append(write_pair_shard(run_dir, random_pairs(2, seed=1), chunk_id=1, signature=other))
    with pytest.raises(UsageError, match=r"00001\.arrow was made with another stop_ids"):
        learn(worker(run_dir), round_id=0, shards=shards, policy_in=base_of(run_dir))
    with pytest.raises(UsageError, match=r"00000\.arrow was made with another stop_ids"):
        learn(worker(run_dir), round_id=0, shards=shards[:1], policy_in=base_of(run_dir), expected_signature=other)


def test_a_loss_that_is_not_finite_stops_before_the_optimizer_moves(run_dir):
    shard = write_pair_shard(run_dir, random_pairs(6))
    learner = worker(run_dir)
    training = learner.train(round_id=0, shards=[shard], policy_in=base_of(run_dir))
    next(training)
    with torch.no_grad():
        learner.residence.trainer.parameters["model.norm.weight"][0] = math.nan
    before = {name: p.detach().clone() for name, p in learner.residence.trainer.parameters.items()}
    with pytest.raises(DivergedError, match="step 2 has loss nan"):
        next(training)
    for name, parameter in learner.residence.trainer.parameters.items():
        assert torch.equal(parameter.nan_to_num(), before[name].nan_to_num())
    table = pa.ipc.open_file(run_dir / "rounds/0000/postmortem/step-0002.arrow").read_all()
    assert table.num_rows == 2
    assert np.isnan(table["loss"].to_numpy()).all()
    assert not (run_dir / "learner").exists()


def test_the_reference_is_computed_once_a_round(run_dir, monkeypatch):
    shard = write_pair_shard(run_dir, random_pairs(5))
    first = learn(worker(run_dir), round_id=0, shards=[shard], policy_in=base_of(run_dir))
    monkeypatch.setattr("learner.residence.score", None)
    again = learn(worker(run_dir), round_id=0, shards=[shard], policy_in=base_of(run_dir))
    assert first[1] == again[1]


def test_a_sidecar_about_other_pairs_or_another_reference_is_made_again(tmp_path):
    pairs = {seed: trainable(random_pairs(3, seed=seed), max_length=None)[0] for seed in (0, 1)}

    def first_logp(seed, reference_sha256, value):
        def score():
            return lambda rows: [np.full(len(row.completion_ids), value, np.float32) for row in rows]

        rows = with_reference(pairs[seed], folder=tmp_path, reference_sha256=reference_sha256, score=score)
        assert [len(row.ref_chosen_logps) for row in rows] == [len(p.chosen.completion_ids) for p in pairs[seed]]
        return rows[0].ref_chosen_logps[0]

    assert first_logp(0, "base", -1.0) == -1.0
    assert first_logp(0, "base", -2.0) == -1.0
    assert first_logp(0, "other", -3.0) == -3.0
    assert first_logp(1, "other", -4.0) == -4.0


def test_an_altered_reference_is_refused_by_name(run_dir):
    shard = write_pair_shard(run_dir, random_pairs(5))
    learn(worker(run_dir), round_id=0, shards=[shard], policy_in=base_of(run_dir))
    sidecar = run_dir / "rounds/0000/reference/00000.arrow"
    sidecar.write_bytes(sidecar.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"reference/00000\.arrow"):
        learn(worker(run_dir), round_id=0, shards=[shard], policy_in=base_of(run_dir))


@TRAINED
@pytest.mark.parametrize("knows_state", [True, False])
def test_score_agrees_with_the_model_for_the_resident_and_for_other_policies(run_dir, trained, knows_state):
    learner, base = worker(run_dir, **trained), base_of(run_dir)
    shard = write_pair_shard(run_dir, random_pairs(8))
    _, update = learn(learner, round_id=0, shards=[shard], policy_in=base)
    rows = [
        TokenSequence(prompt_ids=np.array([7, 8], np.int32), completion_ids=np.array(ids, np.int32))
        for ids in ([9, 10, 11], [12], [])
    ]
    scores = {}
    if not knows_state:
        shutil.rmtree(run_dir / "learner")
        learner = worker(run_dir, **trained)
    for policy in (base, update.policy_out):
        model = load_model(run_dir / policy.path, device=torch.device("cpu"))
        scores[policy.version] = learner.score(rows, policy=policy)
        for row, logps_T in zip(rows, scores[policy.version], strict=True):
            expected_BT = completion_logps(model, pad([row])).detach().numpy()
            assert logps_T.dtype == np.float32
            np.testing.assert_allclose(logps_T, expected_BT[0, 2:], atol=1e-5)
    assert abs(scores[0][0] - scores[1][0]).max() > 1e-3
    assert learner.num_steps == (2 if knows_state else 0)


def at(**changed):
    return Position(**{"steps_before": 0, "step": 0, "num_steps": 4, "round_id": 0, "num_rounds": 2, **changed})


def test_schedules_by_hand():
    def rates(schedule, warmup_steps=0):
        settings = LearnerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=warmup_steps)
        return [
            learning_rate(settings, at(steps_before=4 * r + s, step=s, round_id=r)) for r in (0, 1) for s in range(4)
        ]

    assert rates("constant") == [1.0] * 8
    assert rates("constant", 2) == [0.5] + [1.0] * 7
    assert rates("per_round") == [1.0, 0.75, 0.5, 0.25] * 2
    assert rates("per_round", 2) == [0.5, 0.75, 0.5, 0.25] * 2
    assert rates("whole_run") == [1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]


def test_a_learning_rate_written_as_text_is_a_number():
    assert LearnerConfig.model_validate({"learning_rate": "5e-7"}).learning_rate == 5e-7
