"""The scoreboard inside the loop: two judges, two baselines, canaries, the alarm and the gate."""

import pytest

from orchestrator.scoreboard.standings import rank_rounds
from orchestrator.status import status
from rollout.errors import Stopped
from tests.support.accounts import check_accounts
from tests.support.tiny_config import tiny_config
from tests.support.tiny_policy import make_tiny_policy
from tests.support.tiny_run import tiny_run

pytestmark = pytest.mark.integration

OPPOSITE = {"kind": "function", "target": "tests.support.tiny_judge:dislikes"}
CANARIES = {"path": "tests.support.tiny_judge:known_pairs", "num_per_round": 12}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def finished(policy, tmp_path_factory):
    root = tmp_path_factory.mktemp("runs") / "run"
    return tiny_run(tiny_config(policy, evaluation__gold=OPPOSITE, judge__canaries=CANARIES, num_rounds=3), root)


def test_each_judge_stands_against_the_base_and_the_round_before(finished):
    for record in finished.records():
        names = [(one.judge, one.baseline) for one in record.scores.standings]
        assert names == [("judge", "base"), ("judge", "previous"), ("gold", "base"), ("gold", "previous")]
        assert all(one.num_answered + one.num_abstained == 4 for one in record.scores.standings)
        assert record.scores.win_rate == record.scores.standing("judge", "base").win_rate


def test_the_opposite_judge_says_the_opposite(finished):
    for record in finished.records():
        ours, gold = record.scores.standing("judge", "base"), record.scores.standing("gold", "base")
        assert ours.win_rate.mean == pytest.approx(1 - gold.win_rate.mean)
        assert (ours.num_wins, ours.num_losses, ours.num_ties) == (gold.num_losses, gold.num_wins, gold.num_ties)


def test_in_round_0_the_previous_policy_is_the_base(finished):
    scores = finished.record(0).scores
    assert scores.standing("judge", "previous").win_rate == scores.standing("judge", "base").win_rate


def test_changes_are_paired_with_the_round_before(finished):
    first, second = finished.record(0).scores, finished.record(1).scores
    assert first.standing("judge", "base").change is None
    moved = second.win_rate.mean - first.win_rate.mean
    assert second.standing("judge", "base").change.mean == pytest.approx(moved)


def test_an_interval_over_all_looks_is_wider_and_widens(finished):
    for look, record in enumerate(finished.records()):
        standing = record.scores.standing("judge", "base")
        assert standing.anytime.mean == pytest.approx(standing.win_rate.mean)
        assert standing.anytime.low <= standing.win_rate.mean <= standing.anytime.high
        if look:
            assert standing.anytime.high - standing.anytime.low > 0.5  # four prompts, and a third of alpha's rest


def test_canaries_are_asked_every_round_and_the_judge_is_right_on_three_of_four(finished):
    for record in finished.records():
        assert (record.canaries.num_asked, record.canaries.num_right) == (12, 9)
        assert record.canaries.dropped
    assert status(finished.run.root)["rounds"][0]["canaries"]["accuracy"] == 0.75


def test_all_rounds_are_ranked_above_the_base(finished):
    ranking = rank_rounds(finished.records())
    assert [one.round_id for one in ranking] == [0, 1, 2]
    assert [one["round_id"] for one in status(finished.run.root)["ranking"]] == [0, 1, 2]


def test_a_judge_that_drops_its_canaries_stops_the_run_until_it_may_go_on(policy, tmp_path):
    root = tmp_path / "run"
    stopping = tiny_config(policy, judge__canaries={**CANARIES, "on_drop": "stop"}, num_rounds=1)
    for _ in range(2):  # running it again does not slip past
        with pytest.raises(Stopped, match="ordered 9 of 12 canaries rightly"):
            tiny_run(stopping, root)
    journal = tiny_run(tiny_config(policy, judge__canaries=CANARIES, num_rounds=1), root)
    assert journal.record(0).stage == "done"


def test_the_gate_rolls_back_and_the_next_round_begins_where_this_one_began(policy, tmp_path):
    rules = {"min_win_rate_previous": 1.0, "win_rate_statistic": "low", "action": "rollback"}
    journal = tiny_run(tiny_config(policy, evaluation__gate=rules, num_rounds=2), tmp_path / "run")
    first, second = journal.records()
    assert first.rolled_back
    assert second.policy_in == first.policy_in == journal.base_policy
    assert first.update.policy_out.version == 1
    assert second.update.policy_out.version == 2
    assert "min_win_rate_previous" in first.gate_reasons[0]
    check_accounts(tmp_path / "run")


def test_a_gate_that_only_warns_promotes(policy, tmp_path):
    rules = {"min_win_rate_previous": 1.0, "win_rate_statistic": "low"}
    record = tiny_run(tiny_config(policy, evaluation__gate=rules, num_rounds=1), tmp_path / "run").record(0)
    assert record.policy_next == record.update.policy_out
    assert record.gate_reasons
