from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.scoreboard.length_control import GamedRows, length_controlled, length_controlled_round
from tests.support.tiny_annotations import make_comparisons

VERBOSE = make_comparisons(400, skill=0.0, length_weight=-1.5, extra_length=500, difficulty_weight=0.7, seed=3)


def controlled(rows, *, difficulties=None, gamed=None):
    return length_controlled(
        rows.len_baseline, rows.len_model, rows.preferences, difficulties=difficulties, gamed=gamed, num_resamples=40
    )


def test_an_equal_model_that_is_only_longer_comes_out_at_one_half():
    assert VERBOSE.preferences.mean() > 0.6
    found = controlled(VERBOSE, difficulties=VERBOSE.difficulties)
    assert found.low < 0.5 < found.high
    assert found.win_rate == pytest.approx(0.5, abs=0.04)
    assert found.length_weight == pytest.approx(-1.5, abs=0.3)


def test_a_judge_without_a_taste_for_length_leaves_the_win_rate_as_it_is():
    rows = make_comparisons(400, skill=0.8, length_weight=0.0, extra_length=300, seed=4)
    assert controlled(rows).win_rate == pytest.approx(rows.preferences.mean(), abs=0.015)


def test_gamed_baselines_teach_the_weight_of_length():
    rows = make_comparisons(60, skill=0.5, length_weight=-1.5, extra_length=1500, seed=5)
    deltas = np.tile(np.linspace(-3, 3, 61), 20)
    gamed = GamedRows(std_delta_len=deltas, preferences=1 / (1 + np.exp(1.5 * np.tanh(deltas))))
    alone, taught = controlled(rows), controlled(rows, gamed=gamed)
    assert abs(taught.length_weight + 1.5) < abs(alone.length_weight + 1.5)
    with pytest.raises(ValueError, match="or for neither"):
        controlled(rows, difficulties=rows.difficulties, gamed=gamed)


def test_the_method_says_what_is_missing():
    assert "fitted to this file alone; AlpacaEval's own figure" in controlled(VERBOSE).method
    assert (
        "length, instruction difficulty and a constant" in controlled(VERBOSE, difficulties=VERBOSE.difficulties).method
    )
    whole = GamedRows(
        std_delta_len=np.linspace(-1, 1, 50), preferences=np.linspace(1, 0, 50), difficulties=np.zeros(50)
    )
    assert "ten points" not in controlled(VERBOSE, difficulties=VERBOSE.difficulties, gamed=whole).method


@pytest.mark.parametrize(
    "change",
    [
        {"preferences": np.ones(400)},
        {"preferences": np.zeros(400)},
        {"len_model": VERBOSE.len_baseline - 7},
    ],
)
def test_what_cannot_be_fitted_is_none(change):
    rows = replace(VERBOSE, **change)
    assert controlled(rows) is None
    assert length_controlled_round(rows.len_model, rows.len_baseline, rows.preferences) is None


def test_a_handful_of_rows_is_none():
    assert length_controlled([1, 2, 3], [3, 2, 1], [0.2, 0.5, 0.7]) is None
    assert length_controlled_round([1] * 10 + [3] * 9, [2] * 19, [0.0, 1.0] * 9 + [0.5]) is None


def test_a_round_whose_answers_are_all_longer_is_none():
    assert length_controlled_round([200] * 29 + [50], [100] * 30, [1.0, 0.0] * 15) is None
    assert length_controlled_round([200] * 28 + [50, 60], [100] * 30, [1.0, 0.0] * 15) is not None


def test_a_rounds_hard_verdicts_are_controlled_for_length_too():
    rng = np.random.default_rng(0)
    rows = make_comparisons(300, skill=0.0, length_weight=-2.0, extra_length=500, seed=8)
    hard = (rng.random(300) < rows.preferences).astype(float)
    found = length_controlled_round(rows.len_model, rows.len_baseline, hard, num_resamples=60)
    assert hard.mean() > 0.62
    assert found.low < 0.5 < found.high
    assert found.win_rate == pytest.approx(0.5, abs=0.08)


def test_answers_to_one_prompt_do_not_narrow_the_interval():
    rows = make_comparisons(60, skill=0.3, length_weight=-1.0, seed=7)
    once = length_controlled_round(rows.len_model, rows.len_baseline, rows.preferences, num_resamples=60)
    ids = [f"{n:02}" for n in range(60)] * 9  # in order, so that the same prompts are drawn
    repeated = [np.tile(x, 9) for x in (rows.len_model, rows.len_baseline, rows.preferences)]
    clustered = length_controlled_round(*repeated, prompt_ids=ids, num_resamples=60)
    naive = length_controlled_round(*repeated, num_resamples=60)
    assert clustered.high - clustered.low == pytest.approx(once.high - once.low, rel=0.1)
    assert naive.high - naive.low < 0.5 * (once.high - once.low)


def test_the_same_rows_give_the_same_figures():
    assert controlled(VERBOSE) == controlled(VERBOSE)


@given(st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_exchanging_the_sides_mirrors_a_rounds_figure(seed):
    rows = make_comparisons(40, skill=0.4, length_weight=-1.0, seed=seed)
    ours = length_controlled_round(rows.len_model, rows.len_baseline, rows.preferences, num_resamples=2)
    theirs = length_controlled_round(rows.len_baseline, rows.len_model, 1 - rows.preferences, num_resamples=2)
    assert ours.win_rate + theirs.win_rate == pytest.approx(1, abs=1e-3)
