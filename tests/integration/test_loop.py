"""The loop with real workers in one process: what is counted, what is refused, what an amendment does."""

import json
import time
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from judge.pairing_config import PairingConfig
from judge.shards import read_pairs
from orchestrator.ahead import chunk_prompts
from orchestrator.export import export_round
from orchestrator.journal import Journal
from orchestrator.observer import warnings_of
from orchestrator.probe import ProbeError, check_probe
from orchestrator.rundir import read_run
from orchestrator.show import show_pairs
from orchestrator.status import status
from rollout.errors import InfraError, IntegrityError, Stopped, UsageError
from tests.support.accounts import check_accounts
from tests.support.local_cluster import load_one_at_a_time, local_cluster
from tests.support.tiny_config import tiny_config
from tests.support.tiny_policy import make_tiny_policy
from tests.support.tiny_run import tiny_run

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def finished(policy, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "run"
    return tiny_run(tiny_config(policy), root)


def test_a_run_accounts_for_every_prompt_and_reports_it(finished):
    check_accounts(finished.run.root)
    found = status(finished.run.root)
    assert found["state"] == "done"
    assert found["num_pairs_total"] == sum(record.num_pairs for record in finished.records()) > 0
    assert [one["policy_version_out"] for one in found["rounds"]] == [1, 2]
    assert set(found["rounds"][0]["seconds"]) == {"generate", "judge", "learn", "sync", "evaluate"}


def test_the_base_is_measured_against_itself_once(finished):
    first, second = (record.scores for record in finished.records())
    assert first.base_win_rate is not None
    assert second.base_win_rate is None


def test_engine_and_learner_are_probed_before_each_round(finished):
    assert [record.probe.policy_version for record in finished.records()] == [0, 1]
    assert all(record.probe.mean_difference < 1e-5 for record in finished.records())


def test_no_record_holds_a_clock_or_an_absolute_path(finished):
    for path in finished.run.root.glob("rounds/*/record.json"):
        text = path.read_text()
        assert str(finished.run.root) not in text
        assert not {"time", "seconds", "host"} & set(json.loads(text))


def test_a_round_without_a_pair_keeps_the_policy_and_says_so(policy, tmp_path):
    config = tiny_config(policy, judge__target="tests.support.tiny_judge:always_tied", num_rounds=1)
    record = tiny_run(config, tmp_path / "run").record(0)
    assert (record.num_pairs, record.num_rejected) == (0, {"tie": 8})
    assert record.update.num_steps == 0
    assert record.policy_next == record.policy_in
    assert "not a single pair (rejected: tie 8)" in warnings_of(record)[0]


def test_a_judge_that_raises_is_counted_and_the_run_goes_on(policy, tmp_path):
    config = tiny_config(policy, judge__target="tests.support.tiny_judge:raises", num_rounds=1)
    record = tiny_run(config, tmp_path / "run").record(0)
    assert record.num_rejected == {"judge_raised": 8}
    assert record.num_abstained == {"judge_raised": 24}
    assert record.scores.win_rate is None
    assert record.scores.standing("judge").num_abstained == 4


def test_more_rounds_may_follow_and_the_earlier_stay_as_they_are(policy, tmp_path):
    tiny_run(tiny_config(policy, num_rounds=1), tmp_path / "run")
    before = (tmp_path / "run/rounds/0000/record.json").read_bytes()
    journal = tiny_run(tiny_config(policy, num_rounds=3), tmp_path / "run")
    assert len(journal.records()) == 3
    assert (tmp_path / "run/rounds/0000/record.json").read_bytes() == before


def test_an_amendment_holds_from_the_next_unopened_round(policy, tmp_path):
    tiny_run(tiny_config(policy, num_rounds=1), tmp_path / "run")
    amended = tiny_config(policy, num_rounds=2, judge__target="tests.support.tiny_judge:always_tied")
    with pytest.raises(UsageError, match="--amend"):
        tiny_run(amended, tmp_path / "run")
    records = tiny_run(amended, tmp_path / "run", amend=True).records()
    assert records[0].num_pairs > 0
    assert records[1].num_rejected == {"tie": 8}
    assert records[0].settings != records[1].settings


def test_lag_samples_from_an_earlier_policy(policy, tmp_path, monkeypatch):
    load_one_at_a_time(monkeypatch)
    journal = tiny_run(tiny_config(policy, num_rounds=3, max_policy_lag=1), tmp_path / "run")
    sampled = [record.policy_sampled.version for record in journal.records()]
    assert sampled == [0, 0, 1]
    assert [one["lag"] for one in status(journal.run.root)["rounds"]] == [0, 1, 1]


class LearnsOnceTheNextRoundIsThere:
    """A learner that waits, up to a deadline, for the pairs of the round after the one that it learns."""

    def __init__(self, learner, root, num_rounds):
        self._learner, self._root, self._num_rounds = learner, root, num_rounds
        self.score = learner.score

    def train(self, *, round_id, **kwargs):
        deadline = time.monotonic() + 60
        while round_id + 1 < self._num_rounds and not self.pairs(round_id + 1):
            assert time.monotonic() < deadline, f"round {round_id + 1} was not made while round {round_id} was learnt"
            time.sleep(0.01)
        return self._learner.train(round_id=round_id, **kwargs)

    def pairs(self, round_id):
        return list(self._root.glob(f"rounds/{round_id:04d}/pairs/*.json"))


def test_with_a_lag_the_next_round_is_sampled_and_judged_while_this_one_is_learnt(policy, tmp_path, monkeypatch):
    load_one_at_a_time(monkeypatch)

    def overlapping(run, base):
        cluster = local_cluster(run, base)
        return replace(cluster, learner=LearnsOnceTheNextRoundIsThere(cluster.learner, run.root, 3))

    config = tiny_config(policy, num_rounds=3, max_policy_lag=1)
    undisturbed = tiny_run(config, tmp_path / "undisturbed").records()
    monkeypatch.setattr("tests.support.tiny_run.local_cluster", overlapping)
    assert tiny_run(config, tmp_path / "run").records() == undisturbed


def test_what_goes_wrong_ahead_ends_the_run_and_the_round_before_keeps_what_it_learnt(policy, tmp_path, monkeypatch):
    load_one_at_a_time(monkeypatch)

    def failing(run, base):
        cluster = local_cluster(run, base)
        generate = cluster.rollout.generate

        def until_the_second_round(chunks, **kwargs):
            if chunks[0].round_id == 1:
                raise InfraError("the engine is gone")
            return generate(chunks, **kwargs)

        monkeypatch.setattr(cluster.rollout, "generate", until_the_second_round)
        return cluster

    config = tiny_config(policy, num_rounds=2, max_policy_lag=1)
    with monkeypatch.context() as patch:
        patch.setattr("tests.support.tiny_run.local_cluster", failing)
        with pytest.raises(InfraError, match="the engine is gone"):
            tiny_run(config, tmp_path / "run")
    [record] = Journal(read_run(tmp_path / "run"), base_policy=None).records()
    assert record.update is not None
    assert record.scores is None
    assert len(tiny_run(config, tmp_path / "run").records()) == 2


def test_a_round_that_was_begun_ahead_keeps_its_settings(policy, tmp_path, monkeypatch):
    load_one_at_a_time(monkeypatch)
    config = tiny_config(policy, num_rounds=2, max_policy_lag=1)
    with monkeypatch.context() as patch:
        patch.setattr("orchestrator.loop.evaluate", raises_stopped)
        with pytest.raises(Stopped):
            tiny_run(config, tmp_path / "run")
    amended = tiny_config(policy, num_rounds=3, max_policy_lag=1, judge__target="tests.support.tiny_judge:always_tied")
    records = tiny_run(amended, tmp_path / "run", amend=True).records()
    assert [record.num_pairs > 0 for record in records] == [True, True, False]


def raises_stopped(*_):
    raise Stopped("stopped before the evaluation")


def test_a_prompt_taken_away_from_an_open_round_is_named(finished):
    with pytest.raises(UsageError, match="round 0 drew 8 prompts"):
        chunk_prompts(finished, 0, {})


def test_a_base_that_was_changed_meanwhile_is_refused(tmp_path):
    policy = make_tiny_policy(tmp_path / "policy")
    tiny_run(tiny_config(policy, num_rounds=1), tmp_path / "run")
    make_tiny_policy(policy, seed=1)
    with pytest.raises(IntegrityError, match="base policy was changed"):
        tiny_run(tiny_config(policy, num_rounds=2), tmp_path / "run")


def test_a_record_of_another_policy_is_refused(finished):
    journal = Journal(finished.run, base_policy=finished.base_policy)
    with pytest.raises(IntegrityError, match="was opened with policy v1"):
        journal.open(1, policy_in=finished.base_policy, prompts=())


@pytest.mark.parametrize("wrong", [0.2, np.nan, np.inf])
def test_a_probe_above_its_bound_or_not_finite_stops_the_run(wrong):
    learner = np.zeros(10, np.float32)
    with pytest.raises(ProbeError, match="engine and learner disagree on policy v3"):
        check_probe(learner + np.float32(wrong), learner, version=3, num_completions=2, bound=0.1)
    assert check_probe(learner, learner, version=3, num_completions=2, bound=0.1).mean_difference == 0.0


def test_pairs_of_older_rounds_are_replayed_in_the_share_asked_for(policy, tmp_path):
    journal = tiny_run(tiny_config(policy, learner__replay_share=0.5), tmp_path / "run")
    first, second = journal.records()
    assert "num_replayed" not in first.update.metrics
    assert second.update.metrics["num_replayed"] == min(first.num_pairs, second.num_pairs)
    assert second.update.num_pairs == second.num_pairs
    steps = -(-(second.num_pairs + int(second.update.metrics["num_replayed"])) // 4)
    assert second.update.num_steps == steps


def test_ties_are_kept_where_asked_for_and_never_exported_as_preferences(policy, tmp_path):
    config = tiny_config(policy, judge__target="tests.support.tiny_judge:sometimes_tied", num_rounds=1)
    config = config.model_copy(
        update={"judge": config.judge.model_copy(update={"pairing": PairingConfig(keep_ties=True)})}
    )
    journal = tiny_run(config, tmp_path / "run")
    [*shards] = journal.record(0).shards
    rows = [pair for shard in shards for pair in read_pairs(journal.run.root, shard)]
    assert {pair.outcome for pair in rows} == {"chosen", "tie"}
    assert journal.record(0).num_pairs == sum(pair.outcome == "chosen" for pair in rows)
    export_round(journal, 0, tmp_path / "out")
    exported = [
        outcome
        for path in sorted((tmp_path / "out/pairs").glob("*.arrow"))
        for outcome in pa.ipc.open_file(path).read_all()["outcome"].to_pylist()
    ]
    assert exported == ["chosen"] * journal.record(0).num_pairs


def test_kto_learns_from_answers_by_themselves(policy, tmp_path):
    config = tiny_config(
        policy,
        num_rounds=1,
        judge__target="tests.support.tiny_judge:verified",
        judge__pairing={"select": "unpaired", "desirable_from": 1, "undesirable_to": 0},
        learner__loss="kto",
        learner__num_epochs=2,
    )
    journal = check_accounts(tiny_run(config, tmp_path / "run").run.root)
    record = journal.record(0)
    rows = [pair for shard in record.shards for pair in read_pairs(journal.run.root, shard)]
    assert (record.num_pairs, record.num_unpaired) == (0, len(rows))
    assert {(row.chosen is None, row.rejected is None) for row in rows} == {(True, False), (False, True)}
    assert record.num_abstained["abstained"] > 0
    assert record.update.num_pairs == len(rows)
    assert record.update.metrics["reward_chosen"] > record.update.metrics["reward_rejected"]
    assert status(journal.run.root)["rounds"][0]["num_unpaired"] == len(rows)
    assert f"0 pairs and {len(rows)} rows beside them" in printed(show_pairs(journal, 0, num=2))


def printed(found):
    console = Console(width=200)
    with console.capture() as capture:
        console.print(found)
    return capture.get()
