from math import log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from orchestrator.scoreboard.ranking import Comparison, bradley_terry, win_counts


def test_two_players_have_the_log_odds_and_their_error():
    base, one = bradley_terry([[0, 10], [30, 0]], ridge=1e-9)
    assert (base.logit, base.standard_error, base.low, base.high) == (0, 0, 0, 0)
    assert one.logit == pytest.approx(log(3), abs=1e-6)
    assert one.standard_error == pytest.approx(sqrt(1 / 10 + 1 / 30), abs=1e-6)
    assert one.elo == pytest.approx(400 * log(3) / log(10), abs=1e-3)
    assert (one.low, one.high) == pytest.approx(
        (one.logit - 1.959964 * one.standard_error, one.logit + 1.959964 * one.standard_error)
    )


def test_three_players_whose_odds_multiply():
    # 2:1, 3:1 and 6:1 fit exactly: strengths 0, ln 2, ln 6. Information 20/3, 15/2, 60/7 a pair; the inverse of
    # [[85/6, -15/2], [-15/2, 225/14]] has the diagonal 225/2400 and 595/7200.
    _, one, two = bradley_terry([[0, 10, 10], [20, 0, 10], [60, 30, 0]], ridge=1e-9)
    assert (one.logit, two.logit) == pytest.approx((log(2), log(6)), abs=1e-6)
    assert (one.standard_error, two.standard_error) == pytest.approx((sqrt(225 / 2400), sqrt(595 / 7200)), abs=1e-6)


def test_the_undefeated_are_as_strong_as_the_ridge_allows():
    # ridge * s = 10 * sigmoid(-s) holds at s = ln 9 for a ridge of 1 / ln 9.
    ridge = 1 / log(9)
    _, one = bradley_terry([[0, 0], [10, 0]], ridge=ridge)
    assert one.logit == pytest.approx(log(9), abs=1e-6)
    assert one.standard_error == pytest.approx(1 / sqrt(ridge + 10 * 0.09), abs=1e-6)


def test_a_round_that_nobody_compared_stands_at_the_anchor_with_a_wide_interval():
    _, one, alone = bradley_terry([[0, 5, 0], [5, 0, 0], [0, 0, 0]], ridge=0.25)
    assert alone.logit == pytest.approx(0)
    assert alone.standard_error == pytest.approx(2.0)
    assert one.standard_error < 1


def test_another_anchor_moves_all_by_the_same():
    wins = [[0, 10, 10], [20, 0, 10], [60, 30, 0]]
    from_last = bradley_terry(wins, ridge=1e-9, anchor=2)
    assert [s.logit for s in from_last] == pytest.approx([-log(6), -log(3), 0], abs=1e-6)


def test_ties_count_half_to_each():
    wins = win_counts([Comparison(a=0, b=1, preference=0.5), Comparison(a=1, b=0, preference=1.0, weight=3)], 2)
    assert wins.tolist() == [[0, 0.5], [3.5, 0]]


@pytest.mark.parametrize(("a", "b"), [(0, 2), (-1, 0), (1, 1)])
def test_a_round_outside_is_refused(a, b):
    with pytest.raises(ValueError, match="expected two of 0 to 1"):
        win_counts([Comparison(a=a, b=b, preference=1.0)], 2)


@pytest.mark.parametrize(
    ("wins", "ridge"), [([[0, 1]], 0.1), ([[0, -1], [1, 0]], 0.1), ([[0, np.nan], [1, 0]], 0.1), ([[0]], 0)]
)
def test_counts_that_are_none_are_refused(wins, ridge):
    with pytest.raises(ValueError, match="expected a square matrix"):
        bradley_terry(wins, ridge=ridge)


def test_a_run_of_one_round_is_its_anchor():
    assert [s.logit for s in bradley_terry([[0]])] == [0]


@given(arrays(np.int64, (4, 4), elements=st.integers(0, 50)))
@settings(max_examples=30, deadline=None)
def test_expected_wins_equal_those_seen_but_for_the_ridge(wins):
    np.fill_diagonal(wins, 0)
    s = np.array([one.logit for one in bradley_terry(wins, ridge=0.1)])
    expected = ((wins + wins.T) / (1 + np.exp(s[None, :] - s[:, None]))).sum(axis=1)
    assert (wins.sum(axis=1) - expected - 0.1 * s)[1:] == pytest.approx(np.zeros(3), abs=1e-5)


def test_intervals_cover_the_true_strength():
    rng = np.random.default_rng(0)
    truth, covered = np.array([0.0, 0.4, 0.8]), []
    p = 1 / (1 + np.exp(truth[None, :] - truth[:, None]))
    for _ in range(150):
        won = np.triu(rng.binomial(60, p), 1)
        wins = won + np.triu(60 - won, 1).T
        covered += [s.low <= t <= s.high for s, t in zip(bradley_terry(wins)[1:], truth[1:], strict=True)]
    assert 0.91 <= np.mean(covered) <= 0.99
