from dataclasses import replace

import numpy as np
import pytest

from orchestrator.scoreboard.alarm import RoundSummary, alarms
from orchestrator.scoreboard.intervals import mean_interval
from orchestrator.types import Interval


def rate(mean, half=0.03):
    return Interval(mean=mean, low=mean - half, high=mean + half, num_prompts=300)


def history(judge, gold, kl=(0.1, 0.2, 0.4, 0.8), length=(100, 100, 100, 100), half=0.03):
    return [
        RoundSummary(round_id=n, judge=rate(j, half), gold=None if g is None else rate(g, half), kl=k, length=tokens)
        for n, (j, g, k, tokens) in enumerate(zip(judge, gold, kl, length, strict=False))
    ]


UP, FLAT, DOWN = (0.5, 0.6, 0.7), (0.6, 0.6, 0.6), (0.7, 0.65, 0.58)


def names(found):
    return [reason.partition(":")[0] for reason in found]


@pytest.mark.parametrize("gold", [FLAT, DOWN])
def test_it_fires_where_the_judge_rises_and_gold_does_not(gold):
    (reason,) = alarms(history(UP, gold))
    assert reason.startswith("over_optimisation: from round 0 to 2 the training judge's win rate moved by +0.200")
    assert reason.endswith("while KL grew from 0.1 to 0.4")


def test_growing_length_serves_as_well_as_growing_kl():
    (reason,) = alarms(history(UP, FLAT, kl=(None,) * 3, length=(100, 120, 150)))
    assert reason.endswith("while length grew from 100 to 150")


@pytest.mark.parametrize(
    "silent",
    [
        history(UP, UP),
        history(FLAT, FLAT),
        history(FLAT, DOWN),
        history(DOWN, DOWN),
        history((0.5, 0.72, 0.7), FLAT),  # up over both rounds, but not in each
        history((0.5, 0.51, 0.52), FLAT),  # rises by less than the intervals can see
        history((0.5, 0.51, 0.52), DOWN),  # gold falls, but the judge does not rise
        history(UP, (0.5, 0.6, 0.55)),  # gold rose in one of the rounds
        history(UP, (0.5, 0.54, 0.58), half=0.05),  # gold sees perhaps the same rise
        history(UP[:2], FLAT[:2]),  # too short to tell
        history(UP, (0.6, None, 0.6)),
        history(UP, FLAT, kl=(0.4, 0.4, 0.4)),  # a policy that has not moved cannot be over-optimised
        history(UP, FLAT, kl=(0.4, 0.4, 0.41)),  # moved by less than min_growth
        history(UP, FLAT, kl=(None,) * 3, length=(None,) * 3),
        [],
    ],
)
def test_it_stays_silent_otherwise(silent):
    assert alarms(silent) == ()


def test_only_the_last_rounds_count():
    assert names(alarms(history((0.5, 0.5, 0.6, 0.7), (0.5, 0.6, 0.6, 0.6)))) == ["over_optimisation"]
    assert alarms(history((0.5, 0.6, 0.7, 0.7), (0.6, 0.6, 0.6, 0.6))) == ()


def test_the_number_of_rounds_is_a_setting():
    assert alarms(history(UP[:2], FLAT[:2]), rounds=2) == ()
    assert names(alarms(history(UP[:2], FLAT[:2]), rounds=1)) == ["over_optimisation"]


def test_paired_differences_see_what_separate_intervals_cannot():
    wide = history((0.5, 0.55, 0.6), FLAT, half=0.1)
    assert alarms(wide) == ()
    assert names(alarms(wide, judge_change=rate(0.1), gold_change=rate(0.0))) == ["over_optimisation"]
    assert alarms(wide, judge_change=rate(0.1), gold_change=rate(0.1)) == ()


def test_judges_that_contradict_each_other_are_a_reason_of_its_own():
    (reason,) = alarms(history([0.6], [0.4]))
    assert reason.startswith("judges_disagree: in round 0 the training judge says better than the base (0.600")
    assert alarms(history([0.52], [0.4])) == ()
    assert alarms(history([0.6], [0.48])) == ()
    assert alarms(history([0.6], [None])) == ()
    assert names(alarms(history(UP, (0.5, 0.42, 0.35)))) == ["judges_disagree", "over_optimisation"]


def share_that_fires(judge, gold, num_runs=300, num_prompts=200):
    rng = np.random.default_rng(0)
    fired = 0
    for _ in range(num_runs):
        easy = rng.normal(0, 0.15, num_prompts)
        draws = [
            [mean_interval(rng.random(num_prompts) < np.clip(mean + easy, 0, 1)) for mean in means]
            for means in (judge, gold)
        ]
        rounds = [
            RoundSummary(round_id=n, judge=j, gold=g, kl=0.1 * 2**n)
            for n, (j, g) in enumerate(zip(*draws, strict=True))
        ]
        fired += bool(alarms(rounds))
    return fired / num_runs


def test_noise_does_not_fire_and_over_optimisation_does():
    assert share_that_fires((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)) <= 0.01
    assert share_that_fires((0.55, 0.65, 0.75), (0.55, 0.65, 0.75)) <= 0.03
    assert share_that_fires((0.55, 0.7, 0.85), (0.55, 0.55, 0.5)) >= 0.9


def saturated(judge, gold, kl=(0.1, 0.4, 1.0), half=0.05):
    """The judge has no room left against the base; what it says against the round before still tells."""
    return [
        RoundSummary(
            round_id=n,
            judge=rate(0.97),
            gold=rate(0.8),
            judge_previous=rate(j, half),
            gold_previous=None if g is None else rate(g, half),
            kl=k,
        )
        for n, (j, g, k) in enumerate(zip(judge, gold, kl, strict=True))
    ]


@pytest.mark.parametrize("gold", [(0.8, 0.52, 0.5), (0.8, 0.53, 0.35), (0.8, 0.3, 0.3)])
def test_it_fires_against_the_round_before_where_the_base_is_long_beaten(gold):
    (reason,) = alarms(saturated((0.85, 0.8, 0.6), gold))
    assert reason.startswith("over_optimisation: in rounds 1 to 2 the training judge prefers each policy")
    assert reason.endswith("while KL grew from 0.1 to 1")


@pytest.mark.parametrize(
    "silent",
    [
        saturated((0.85, 0.8, 0.6), (0.8, 0.6, 0.5)),  # gold says better in one of the rounds
        saturated((0.85, 0.8, 0.6), (0.8, 0.54, 0.54)),  # gold says better over both
        saturated((0.85, 0.9, 0.45), (0.8, 0.5, 0.5)),  # the judge likes the last round less
        saturated((0.85, 0.52, 0.52), (0.8, 0.5, 0.5)),  # the judge may see nothing either
        saturated((0.85, 0.8, 0.6), (0.8, None, 0.4)),
        saturated((0.85, 0.8, 0.6), (0.8, 0.5, 0.4), kl=(0.4, 0.4, 0.4)),
        saturated((0.85, 0.8, 0.6), (0.8, 0.5, 0.4))[1:],
    ],
)
def test_against_the_round_before_it_stays_silent_otherwise(silent):
    assert alarms(silent) == ()


def fallen(judge_previous=None, gold_previous=None, kl=(0.1, 1.0)):
    """Round 1 against round 0, under each judge."""
    first, last = history((0.8, 0.5), (0.8, 0.5), kl=kl)
    return [first, replace(last, judge_previous=judge_previous, gold_previous=gold_previous)]


@pytest.mark.parametrize(
    ("rates", "said"),
    [
        ({"judge_previous": rate(0.2)}, "under the training judge (0.200, at most 0.230), while KL grew from 0.1 to 1"),
        ({"judge_previous": rate(0.4), "gold_previous": rate(0.1)}, "under the gold judge (0.100, at most 0.130)"),
        (
            {"judge_previous": rate(0.0), "gold_previous": rate(0.1)},
            "judge (0.000, at most 0.030) and the gold judge",
        ),
    ],
)
def test_a_policy_that_has_let_go_and_loses_to_its_own_start_has_collapsed(rates, said):
    (reason,) = alarms(fallen(**rates))
    assert reason.startswith("collapse: in round 1 the policy loses to the one that it began with under ")
    assert said in reason


@pytest.mark.parametrize(
    "silent",
    [
        fallen(judge_previous=rate(0.31), gold_previous=rate(0.31)),  # 0.34 is not ruled out
        fallen(judge_previous=rate(0.2), kl=(0.4, 0.41)),  # it has not moved: the prompts were hard, perhaps
        fallen(judge_previous=rate(0.2), kl=(None, None)),
        fallen(),
        fallen(judge_previous=rate(0.2))[1:],  # nothing to have grown from
    ],
)
def test_a_bad_round_is_no_collapse(silent):
    assert alarms(silent) == ()
