"""What a rehearsal runs, and what it makes of how that ended."""

from pathlib import Path

import pytest
from rich.console import Console

from orchestrator.placement import placement
from orchestrator.probe import ProbeError
from orchestrator.rehearsal.shrunk import STAND_INS, changed, shrunk, stand_in
from orchestrator.rehearsal.verdicts import passed, read_verdicts
from orchestrator.rehearsal.watch import Watch
from rollout.errors import InfraError
from tests.support.tiny_config import tiny_config
from tests.support.told_events import told_events, told_record


def config(**changes):
    return tiny_config(Path("/no/policy"), **changes)


def test_it_is_the_same_run_with_less_to_do():
    run = config(
        num_rounds=9,
        max_policy_lag=1,
        prompts__num_per_round=1000,
        rollout__num_engines=4,
        rollout__max_new_tokens=4096,
        rollout__num_completions=16,
        learner__batch_pairs=64,
        learner__num_ranks=4,
        learner__num_epochs=3,
        tracking={"tensorboard": "boards"},
    )
    tiny, left_out = shrunk(run)
    assert (tiny.num_rounds, tiny.max_policy_lag, tiny.prompts.num_per_round) == (1, 0, 16)
    assert (tiny.rollout.max_new_tokens, tiny.rollout.num_completions, tiny.rollout.prompts_per_shard) == (64, 8, 2)
    assert (tiny.rollout.num_engines, tiny.learner.num_ranks) == (4, 4), "placement is what a rehearsal is about"
    assert (tiny.learner.batch_pairs, tiny.learner.num_epochs, tiny.tracking.tensorboard) == (4, 1, None)
    assert left_out == []


def test_small_settings_stay_as_they_are():
    run = config(prompts__num_per_round=3, learner__batch_pairs=2)
    tiny, _ = shrunk(run)
    assert (tiny.prompts.num_per_round, tiny.rollout.max_new_tokens, tiny.learner.batch_pairs) == (3, 8, 2)


def test_without_held_out_prompts_a_second_round_brings_weights_to_the_engines():
    assert shrunk(config(evaluation__prompts=None))[0].num_rounds == 2


def test_people_and_fine_tuning_are_left_out_and_it_says_so():
    sft = {"demonstrations": "orchestrator.quickstart:demonstrations"}
    tiny, left_out = shrunk(config(judge={"kind": "human"}, rollout__num_completions=2, policy__sft=sft))
    assert tiny.policy.sft is None
    assert tiny.judge.kind == "function"
    assert left_out == ["fine-tuning of the base policy", "people as the judge"]


@pytest.mark.parametrize("part", STAND_INS)
def test_every_stand_in_is_a_valid_configuration(part):
    run = config(rollout__engine="vllm", rollout__num_engines=2)
    assert changed(shrunk(run)[0], STAND_INS[part]) != shrunk(run)[0]


def test_the_stand_in_tells_any_two_answers_apart():
    answers = [[{"role": "assistant", "content": text}] for text in ("a", "b", "c\ud800")]
    assert len(set(stand_in([], answers))) == 3


def test_actors_ask_for_what_they_are_given():
    run = config(rollout__num_engines=2, rollout__tensor_parallel_size=4, learner__num_ranks=8, learner__cpus=2)
    learner, engine, judge = placement(run, has_gpus=True)
    assert (learner.num, learner.cpus, learner.gpus) == (8, 2, 1)
    assert (engine.num, engine.cpus, engine.gpus) == (2, 1, 4)
    assert (judge.num, judge.gpus) == (1, 0)
    assert placement(run, has_gpus=False)[1].gpus == 0


class Stopping:
    reason = ""

    def stop(self, reason):
        self.reason = reason


def heard(*stages, run=None):
    watch = Watch(run or config(), Stopping(), Console(quiet=True))
    for stage in stages:
        name, done = stage.rstrip("."), stage.endswith(".")
        watch.take({"kind": "stage" if done else "stage_started", "stage": name})
    return watch


@pytest.mark.parametrize(
    ("stages", "error", "part"),
    [
        (["run", "start"], InfraError("x"), "placement"),
        (["run", "start", "start judges"], InfraError("x"), "judge start"),
        (["run", "start", "start.", "generate", "start engines"], InfraError("x"), "engine start"),
        (["run", "generate", "judge", "judge.", "generate.", "learn"], InfraError("x"), "learning"),
        (["run", "evaluate", "sync"], InfraError("x"), "weight sync"),
        (["run"], ProbeError("x"), "engine against learner"),
    ],
)
def test_the_stage_that_was_open_names_the_part(stages, error, part):
    assert heard(*stages).part(error) == part


def test_a_run_that_asks_for_more_than_there_is_is_stopped(monkeypatch):
    monkeypatch.setattr("orchestrator.rehearsal.watch.cluster_resources", lambda: {"CPU": 64.0, "GPU": 2.0})
    watch = heard(
        "run", "start", "place", "place.", run=config(rollout__tensor_parallel_size=2, judge__cpus_per_actor=1)
    )
    assert not watch.fits
    assert watch.part(InfraError("x")) == "placement"
    assert watch._observer.reason == "the run asks for 3 CPUs and 3 GPUs; the cluster has 64 CPUs and 2 GPUs"


def test_traces_of_a_round_become_verdicts(tmp_path):
    memory = {"kind": "memory", "round": None, "stage": "run", "part": "learner", "memory_bytes": 3 * 2**30}
    found = read_verdicts(tmp_path, [told_record()], [*told_events(), memory], heard())
    assert {part: one.verdict for part, one in found.items()} == dict.fromkeys(
        ("generation", "judge", "engine against learner", "learning", "publication", "weight sync", "evaluation"), "ok"
    )
    assert found["generation"].found == "100 tokens/s, 4,000 tokens by 2 engines"
    assert found["judge"].found == "8 pairs of 10 prompts; rejected: tie 2; abstained: too_few 1"
    assert found["learning"].found == "2 steps, loss 0.600, 500 tokens/s, 3.0 GiB of memory at most"
    assert (found["weight sync"].seconds, found["weight sync"].found) == (
        0.5,
        "1000 bytes in 0.50 s at most, engines 1",
    )


def test_what_takes_long_is_slow():
    assert passed("weight sync", 31.0, "").verdict == "slow"
    assert passed("weight sync", 29.0, "").verdict == "ok"
