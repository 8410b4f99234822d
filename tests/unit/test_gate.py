import pytest

from orchestrator.changes import flatten
from orchestrator.scoreboard.config import AlarmConfig, GateConfig
from orchestrator.scoreboard.gate import Decision, GateScores, decide
from orchestrator.types import Interval

RATE = Interval(mean=0.52, low=0.45, high=0.59, num_prompts=100)
SCORES = GateScores(win_rate_previous=RATE, kl=0.3, length_growth=1.5, alarms=("over_optimisation: seen",))


def test_without_rules_every_round_is_promoted():
    assert decide(GateConfig(), SCORES) == Decision(promote=True)


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ({"min_win_rate_previous": 0.53}, "min_win_rate_previous: got 0.52, expected at least 0.53"),
        (
            {"min_win_rate_previous": 0.5, "win_rate_statistic": "low"},
            "min_win_rate_previous: got 0.45, expected at least 0.5",
        ),
        ({"max_kl": 0.2}, "max_kl: got 0.3, expected at most 0.2"),
        ({"max_length_growth": 1.4}, "max_length_growth: got 1.5, expected at most 1.4"),
    ],
)
def test_a_broken_rule_warns_or_rolls_back_as_configured(rules, reason):
    assert decide(GateConfig(**rules), SCORES) == Decision(promote=True, reasons=(reason,))
    assert decide(GateConfig(**rules, action="rollback"), SCORES) == Decision(promote=False, reasons=(reason,))


@pytest.mark.parametrize(
    "rules",
    [
        {"min_win_rate_previous": 0.52},
        {"min_win_rate_previous": 0.59, "win_rate_statistic": "high"},
        {"max_kl": 0.3},
        {"max_length_growth": 1.5},
    ],
)
def test_a_rule_that_is_just_kept_is_kept(rules):
    assert decide(GateConfig(**rules, action="rollback"), SCORES) == Decision(promote=True)


def test_an_alarm_rolls_back_only_where_it_is_heeded():
    assert decide(GateConfig(on_alarm="rollback"), SCORES) == Decision(promote=False, reasons=SCORES.alarms)
    assert decide(GateConfig(on_alarm="rollback"), GateScores()).promote
    assert decide(GateConfig(on_alarm="ignore", action="rollback"), SCORES).promote


def test_what_was_not_measured_neither_breaks_nor_keeps_a_rule():
    rules = GateConfig(min_win_rate_previous=0.5, max_kl=0.1, max_length_growth=2, action="rollback")
    decision = decide(rules, GateScores())
    assert decision.promote
    assert decision.reasons == ()
    assert [text.split()[0] for text in decision.unmeasured] == ["min_win_rate_previous", "max_kl", "max_length_growth"]


def test_a_figure_that_is_no_number_keeps_no_rule():
    assert not decide(GateConfig(max_kl=1, action="rollback"), GateScores(kl=float("nan"))).promote


def test_every_broken_rule_is_named():
    rules = GateConfig(min_win_rate_previous=0.9, max_kl=0.1, max_length_growth=1, action="rollback")
    assert len(decide(rules, SCORES).reasons) == 3


def test_the_settings_may_change_from_round_to_round():
    assert {mark for mark, _ in (flatten(GateConfig()) | flatten(AlarmConfig())).values()} == {"per_round"}
