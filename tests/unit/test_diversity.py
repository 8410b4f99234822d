from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.scoreboard.diversity import distinct_n, length_quantiles, self_bleu, words

some_texts = st.lists(st.lists(st.integers(0, 3), max_size=8), min_size=2, max_size=6)


def test_words_are_words_and_single_marks():
    assert words("Don't stop: 3.5 Äpfel\n") == ["don", "'", "t", "stop", ":", "3", ".", "5", "äpfel"]


def test_distinct_n_counts_different_ngrams_among_all():
    assert distinct_n([["a", "b", "a", "b"]], 1) == pytest.approx(2 / 4)
    assert distinct_n([["a", "b", "a", "b"]], 2) == pytest.approx(2 / 3)
    assert distinct_n([["a", "b"], ["a", "b"]], 2) == pytest.approx(1 / 2)  # no n-gram spans two texts
    assert distinct_n([["a"]], 2) is None


def test_self_bleu_of_two_texts_by_hand():
    # Precisions 3/4, (2+1)/(3+1), (1+1)/(2+1), (0+1)/(1+1); equal lengths, so no brevity penalty.
    assert self_bleu([["a", "b", "c", "d"], ["a", "b", "c", "e"]]) == pytest.approx(
        (3 / 4 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    )


def test_a_shorter_text_pays_for_its_brevity():
    # "a b" matches wholly, exp(1 - 4/2); "a b c d" has 2/4, (1+1)/(3+1), 1/(2+1), 1/(1+1) and no penalty.
    long = (2 / 4 * 2 / 4 * 1 / 3 * 1 / 2) ** 0.25
    assert self_bleu([["a", "b"], ["a", "b", "c", "d"]]) == pytest.approx((exp(-1) + long) / 2)


def test_a_repeated_word_is_clipped_at_what_one_other_text_holds():
    # "a a a": 2 of 3 (no single other has three), (1+1)/(2+1), (0+1)/(1+1), and 1/1 for an order it has none of.
    first = (2 / 3 * 2 / 3 * 1 / 2) ** 0.25
    others = [["a", "a", "b"], ["b", "c", "c"]]
    alone = self_bleu([["a", "a", "a"], *others])
    # "a a b": all 3 (a twice, b once), (1+1)/(2+1), 1/2, 1; "b c c": 1 of 3, (0+1)/(2+1), 1/2, 1.
    rest = (1 * 2 / 3 * 1 / 2) ** 0.25 + (1 / 3 * 1 / 3 * 1 / 2) ** 0.25
    assert alone == pytest.approx((first + rest) / 3)


def test_self_bleu_at_its_ends():
    assert self_bleu([["x", "y", "z"]] * 5) == pytest.approx(1.0)
    assert self_bleu([["x"], ["y"], ["z"]]) == 0.0
    assert self_bleu([[], []]) == 1.0
    assert self_bleu([[], ["x"]]) == 0.0
    assert self_bleu([["x"]]) is None


def test_a_large_set_is_sampled_the_same_way_every_time():
    texts = [[n % 7, n % 5, n % 3, n % 2, n % 11] for n in range(300)]
    assert self_bleu(texts, max_texts=50) == self_bleu(texts, max_texts=50)
    assert self_bleu(texts, max_texts=50) != self_bleu(texts, max_texts=50, seed=1)
    assert self_bleu(texts, max_texts=300) == self_bleu(texts)


@given(some_texts)
def test_self_bleu_is_a_share_and_does_not_know_the_order_of_texts(texts):
    found = self_bleu(texts)
    assert 0 <= found <= 1 + 1e-12
    assert self_bleu(texts[::-1]) == pytest.approx(found)
    assert self_bleu([*texts, *texts]) >= found - 1e-12


def test_length_quantiles_interpolate():
    quantiles = length_quantiles(list(range(11)))
    assert (quantiles.p10, quantiles.p50, quantiles.p90) == pytest.approx((1, 5, 9))
    assert length_quantiles([]) is None
