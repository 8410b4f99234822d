"""Agreement: alpha and kappa against figures that are known, and undefined where they are."""

import pytest

from judge.human.agreement import agreement, cohen_kappa, krippendorff_alpha
from judge.human.trust import quarantine


def test_alpha_is_that_of_the_book():
    # Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), example C, nominal: 0.743.
    rows = [
        "1 2 3 3 2 1 4 1 2 - - -",
        "1 2 3 3 2 2 4 1 2 5 - 3",
        "- 3 3 3 2 3 4 2 2 5 1 -",
        "1 2 3 3 2 4 4 1 2 5 1 -",
    ]
    # Its five values are one more than the labels that there are: unit 10 (5 5 5) and one value are left out on both.
    names = {"1": "a", "2": "b", "3": "tie", "4": "both_bad"}
    columns = [
        [cell for cell in column if cell in names] for column in zip(*(row.split() for row in rows), strict=True)
    ]
    units = [[names[cell] for cell in column] for column in columns]
    n_by_unit = [unit for unit in units if len(unit) > 1]
    total = sum(map(len, n_by_unit))
    observed = sum(
        sum(x != y for i, x in enumerate(unit) for j, y in enumerate(unit) if i != j) / (len(unit) - 1)
        for unit in n_by_unit
    )
    flat = [label for unit in n_by_unit for label in unit]
    expected = sum(x != y for i, x in enumerate(flat) for j, y in enumerate(flat) if i != j) / (total - 1)
    assert krippendorff_alpha(units) == pytest.approx(1 - observed / expected)
    assert krippendorff_alpha(units) == pytest.approx(0.69, abs=0.03)


def test_agreement_that_is_not_defined_is_none_and_never_zero():
    assert krippendorff_alpha([]) is None
    assert krippendorff_alpha([["a"], ["b"]]) is None
    assert krippendorff_alpha([["a", "a"]]) is None
    assert krippendorff_alpha([["a", "a"], ["a", "a"]]) is None
    assert krippendorff_alpha([["a", "a"], ["b", "b"]]) == 1.0
    assert cohen_kappa([], []) is None
    assert cohen_kappa(["a", "a"], ["a", "a"]) is None
    assert cohen_kappa(["a", "b"], ["a", "b"]) == 1.0


def test_kappa_takes_chance_out():
    first = ["a"] * 25 + ["b"] * 25
    second = ["a"] * 20 + ["b"] * 5 + ["a"] * 10 + ["b"] * 15
    assert cohen_kappa(first, second) == pytest.approx((0.7 - 0.5) / 0.5)


def test_agreement_of_a_round_is_of_the_labels_that_count(queue):
    row_id = queue.round(num=4, overlap=3, max_labels=3, max_skips=9)
    for label in ("a", "b", "a", "tie"):
        queue.label(queue.ann, label)
    for label in ("a", "b", "b", "skip"):
        queue.label(queue.ben, label)
    queue.label(queue.cem, "a")
    found = agreement(queue.database, row_id)
    pairs = {(pair.first, pair.second): pair for pair in found.pairs}
    assert set(pairs) == {(queue.ann, queue.ben), (queue.ann, queue.cem), (queue.ben, queue.cem)}
    both = pairs[queue.ann, queue.ben]
    assert (both.num_common, both.share) == (3, pytest.approx(2 / 3))
    assert both.kappa == pytest.approx((2 / 3 - 4 / 9) / (1 - 4 / 9))
    assert pairs[queue.ann, queue.cem].kappa is None
    assert (found.num_units, found.alpha is not None) == (3, True)
    quarantine(queue.database, queue.ben, True, "boss")
    assert {(pair.first, pair.second) for pair in agreement(queue.database, row_id).pairs} == {(queue.ann, queue.cem)}
