import numpy as np
import pytest

from judge.types import Verdict
from orchestrator.winrate import win_rate


def verdict(prompt, outcome):
    return Verdict(prompt_id=prompt, a=0, b=0, outcome=outcome, p_a=None, judge_id="j", source="function")


def test_ties_count_half_and_abstentions_not_at_all():
    rate = win_rate([verdict("p", "a"), verdict("q", "tie"), verdict("r", "b"), verdict("s", "abstain")])
    assert rate.mean == pytest.approx(0.5)
    assert rate.num_prompts == 3


def test_no_answer_is_no_rate():
    assert win_rate([verdict("p", "abstain")]) is None


def test_answers_to_one_prompt_are_one_observation():
    once = win_rate([verdict(str(n), "a" if n % 2 else "b") for n in range(40)])
    tenfold = win_rate([verdict(str(n), "a" if n % 2 else "b") for n in range(40) for _ in range(10)])
    assert (tenfold.low, tenfold.high) == (once.low, once.high)


def test_a_clean_sweep_has_wilsons_interval():
    rate = win_rate([verdict(str(n), "a") for n in range(10)])
    assert rate.mean == 1.0
    assert rate.low == pytest.approx(0.7224672, abs=1e-6)  # 10 / (10 + 1.959964^2)
    assert rate.high == pytest.approx(1.0)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        outcomes = np.where(rng.random(100) < 0.6, "a", "b")
        rate = win_rate([verdict(str(n), o) for n, o in enumerate(outcomes)], seed=trial)
        covered += rate.low <= 0.6 <= rate.high
    assert 180 <= covered <= 199
