import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.types import Verdict
from orchestrator.scoreboard.intervals import look_alpha, mean_interval, paired_difference, prompt_preferences

NUM_PROMPTS = 100


def verdict(prompt, outcome, p_a=None):
    return Verdict(prompt_id=prompt, a=0, b=0, outcome=outcome, p_a=p_a, judge_id="j", source="function")


def test_seven_of_ten_has_agresti_and_coulls_interval():
    interval = mean_interval([1.0] * 7 + [0.0] * 3)
    # n~ = 10 + 3.84146, p~ = 8.92073 / n~ = 0.644492, half = 1.959964 * sqrt(p~ (1 - p~) / n~) = 0.252169
    assert (interval.mean, interval.num_prompts) == (0.7, 10)
    assert (interval.low, interval.high) == pytest.approx((0.392323, 0.896661), abs=1e-5)


def test_a_difference_has_the_same_interval_on_twice_the_scale():
    wins = {str(n): float(n < 7) for n in range(10)}
    difference = paired_difference(wins, {p: 1 - v for p, v in wins.items()})
    share = mean_interval(list(wins.values()))
    assert difference.mean == pytest.approx(0.4)
    assert (difference.low, difference.high) == pytest.approx((2 * share.low - 1, 2 * share.high - 1))


def test_only_prompts_that_both_have_are_paired():
    difference = paired_difference({"p": 1.0, "q": 0.5}, {"q": 0.25, "r": 0.0})
    assert (difference.mean, difference.num_prompts) == (0.25, 1)
    assert paired_difference({"p": 1.0}, {"q": 1.0}) is None
    assert mean_interval([]) is None


def test_pairing_is_narrower_where_prompts_differ_in_difficulty():
    rng = np.random.default_rng(0)
    hard = rng.random(NUM_PROMPTS)
    ours = {str(n): float(x) for n, x in enumerate(np.clip(hard + 0.05 + rng.normal(0, 0.02, NUM_PROMPTS), 0, 1))}
    theirs = {str(n): float(x) for n, x in enumerate(hard)}
    paired, single = paired_difference(ours, theirs), mean_interval(list(ours.values()))
    assert paired.low > 0
    assert paired.high - paired.low < single.high - single.low


def test_a_prompts_answers_are_one_value_and_abstentions_none():
    verdicts = [
        *(verdict("p", outcome) for outcome in ("a", "b", "tie", "abstain")),
        *(verdict("q", outcome) for outcome in ("a", "both_bad")),
        verdict("r", "abstain"),
    ]
    assert prompt_preferences(verdicts) == {"p": 0.5, "q": 0.75}
    assert prompt_preferences([verdict("p", "a", 0.6), verdict("p", "b")], soft=True) == {"p": 0.3}


def test_a_value_outside_its_bounds_is_refused():
    with pytest.raises(ValueError, match=r"got -0\.5 to 1\.0"):
        mean_interval([1.0, -0.5])
    with pytest.raises(ValueError, match="must lie in"):
        mean_interval([float("nan")])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.floats(1e-6, 0.5))
def test_an_interval_holds_its_mean_and_widens_as_alpha_shrinks(values, alpha):
    narrow, wide = mean_interval(values, alpha=alpha), mean_interval(values, alpha=alpha / 10)
    assert 0 <= wide.low <= narrow.low + 1e-12
    assert narrow.low - 1e-12 <= narrow.mean <= narrow.high + 1e-12
    assert narrow.high <= wide.high + 1e-12 <= 1 + 2e-12
    assert wide.high - wide.low > 0


@pytest.mark.parametrize("rate", [0.5, 0.9, 0.99])
def test_one_look_covers_the_truth_about_as_often_as_it_says(rate):
    rng = np.random.default_rng(1)
    outcomes = rng.random((600, NUM_PROMPTS)) < rate
    covered = [i.low <= rate <= i.high for i in (mean_interval(row) for row in outcomes)]
    assert 0.935 <= np.mean(covered) <= 0.995


def misses_of_any_look(alpha_of, num_runs=400, num_looks=10):
    """Share of runs of which any look misses. Two equal policies; prompts keep their difficulty over the rounds."""
    rng = np.random.default_rng(2)
    missed = 0
    for _ in range(num_runs):
        easy = rng.beta(1, 1, NUM_PROMPTS)
        ours, theirs = (rng.random((2, num_looks, NUM_PROMPTS)) < easy).astype(float)
        looks = zip(ours - theirs, range(1, num_looks + 1), strict=True)
        intervals = [mean_interval(row, alpha=alpha_of(look), bounds=(-1, 1)) for row, look in looks]
        missed += any(not i.low <= 0 <= i.high for i in intervals)
    return missed / num_runs


def test_all_looks_together_cover_where_alpha_is_spent_and_do_not_where_it_is_not():
    assert misses_of_any_look(look_alpha) <= 0.05
    assert misses_of_any_look(lambda look: 0.05) > 0.2


def test_what_is_spent_sums_to_alpha():
    assert look_alpha(1) == pytest.approx(0.05 * 0.6079271)
    assert sum(look_alpha(k) for k in range(1, 20_000)) == pytest.approx(0.05, rel=1e-4)
    with pytest.raises(ValueError, match="counted from 1"):
        look_alpha(0)
