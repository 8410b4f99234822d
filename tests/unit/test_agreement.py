import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from sklearn.metrics import cohen_kappa_score

from orchestrator.scoreboard.agreement import (
    LabelledVerdict,
    audit,
    calibration,
    kappa,
    length_bias,
    position_bias,
    wilson,
)

labels = st.sampled_from(["a", "b", "tie"])
outcomes = st.sampled_from(["a", "b", "tie", "both_bad", "abstain"])
lengths = st.integers(0, 3000)
row_lists = st.lists(
    st.builds(
        LabelledVerdict,
        label=labels,
        outcome=outcomes,
        p_a=st.none() | st.floats(0, 1),
        shown_ab=st.none() | outcomes,
        shown_ba=st.none() | outcomes,
        len_a=lengths,
        len_b=lengths,
    ),
    max_size=20,
)


def rows(*pairs):
    return [LabelledVerdict(label=label, outcome=outcome) for label, outcome in pairs]


def shown(ab, ba):
    return LabelledVerdict(label="a", outcome="a", shown_ab=ab, shown_ba=ba)


def test_wilsons_interval_by_hand():
    share = wilson(10, 10)
    assert (share.mean, share.high) == (1.0, pytest.approx(1.0))
    assert share.low == pytest.approx(10 / (10 + 1.959964**2), abs=1e-6)
    half = wilson(50, 100)
    assert (half.low, half.high) == pytest.approx((0.403832, 0.596168), abs=1e-6)
    assert wilson(0, 0).mean is None


def test_agreement_counts_ties_as_answers_and_abstentions_not_at_all():
    found = audit(rows(("a", "a"), ("b", "a"), ("tie", "both_bad"), ("a", "tie"), ("b", "abstain")))
    assert (found.agreement.num, found.agreement.total) == (2, 4)
    assert (found.decisive_agreement.num, found.decisive_agreement.total) == (1, 2)
    assert (found.abstained.num, found.abstained.total) == (1, 5)
    assert (found.ties.num, found.ties.total) == (2, 4)


def test_kappa_by_hand_and_against_scikit_learn():
    # 45 of 60 agree; by chance 25/60 * 30/60 + 35/60 * 30/60 = 1/2; (3/4 - 1/2) / (1 - 1/2) = 1/2.
    table = rows(*[("a", "a")] * 20, *[("a", "b")] * 5, *[("b", "a")] * 10, *[("b", "b")] * 25, ("a", "abstain"))
    assert kappa(table) == pytest.approx(0.5)
    assert kappa(rows(("a", "a"), ("a", "a"))) is None
    assert kappa([]) is None
    three = rows(("a", "a"), ("tie", "tie"), ("b", "tie"), ("b", "b"), ("a", "b"))
    assert kappa(three) == pytest.approx(
        cohen_kappa_score([r.label for r in three], [r.outcome for r in three], labels=["a", "b", "tie"])
    )


def test_a_judge_that_always_takes_the_first_is_all_position():
    bias = position_bias([shown("a", "b")] * 10)
    assert (bias.changed.mean, bias.first_minus_second, bias.num_decided) == (1.0, 1.0, 20)


def test_a_judge_that_always_takes_the_second_has_the_opposite_sign():
    assert position_bias([shown("b", "a")] * 10).first_minus_second == -1.0


def test_a_judge_that_knows_no_position_has_none():
    bias = position_bias([shown("a", "a"), shown("b", "b"), shown("tie", "both_bad")])
    assert (bias.changed.num, bias.changed.total, bias.first_minus_second) == (0, 3, 0.0)


def test_orders_that_were_not_answered_are_left_out():
    bias = position_bias([shown("a", None), shown("abstain", "b"), shown("a", "tie")])
    assert (bias.changed.num, bias.changed.total) == (1, 1)
    assert (bias.first_minus_second, bias.num_decided) == (1.0, 3)
    assert position_bias([shown(None, None)]).first_minus_second is None


def by_length(taste, num=200):
    rng = np.random.default_rng(0)
    made = []
    for _ in range(num):
        len_a, len_b = (int(n) for n in rng.integers(100, 2000, 2))
        label = "a" if rng.random() < 0.5 else "b"
        longer = "a" if len_a > len_b else "b"
        made.append(
            LabelledVerdict(label=label, outcome=longer if rng.random() < taste else label, len_a=len_a, len_b=len_b)
        )
    return made


def test_a_taste_for_length_shows_and_following_long_labels_does_not():
    assert length_bias(by_length(0.5)).low > 0.2
    assert length_bias(by_length(0.0)) is None  # the judge is the labels
    honest = [
        LabelledVerdict(label=r.outcome, outcome=r.outcome, p_a=0.9 if r.outcome == "a" else 0.1 + 1e-3 * (n % 2))
        for n, r in enumerate(by_length(1.0))
    ]
    assert length_bias(honest) is None  # all lengths 0: nothing varies


def test_length_bias_is_pearsons_correlation():
    table = by_length(0.3)
    difference = np.array([float(r.len_a - r.len_b) for r in table])
    excess = [float(r.outcome == "a") - float(r.label == "a") for r in table]
    expected = pearsonr(np.tanh(difference / difference.std(ddof=1)), excess)
    found = length_bias(table)
    assert found.correlation == pytest.approx(expected.statistic)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval(0.95)))


def test_calibration_by_hand():
    p = [(0.9, "a"), (0.95, "b"), (0.2, "b"), (0.25, "a")]
    found = calibration([LabelledVerdict(label=label, outcome="a", p_a=value) for value, label in p])
    # Bins [0.9, 1]: |1.85 - 1| and [0.2, 0.3): |0.45 - 1|, over 4 rows.
    assert found.expected_error == pytest.approx((0.85 + 0.55) / 4)
    assert found.brier == pytest.approx((0.1**2 + 0.95**2 + 0.2**2 + 0.75**2) / 4)
    assert found.num == 4
    assert calibration([LabelledVerdict(label="tie", outcome="a", p_a=0.5)]) is None
    assert calibration([LabelledVerdict(label="a", outcome="a")]) is None


def test_a_probability_of_one_has_a_bin():
    assert calibration([LabelledVerdict(label="a", outcome="a", p_a=1.0)]).expected_error == 0.0


@given(row_lists)
@settings(max_examples=50, deadline=None)
def test_an_audit_of_anything_has_figures_in_their_ranges(table):
    found = audit(table)
    for share in (found.agreement, found.decisive_agreement, found.position.changed, found.abstained, found.ties):
        assert share.mean is None or 0 <= share.low <= share.mean + 1e-12 <= share.high + 2e-12 <= 1 + 3e-12
    assert found.agreement.total + found.abstained.num == len(table)
    assert found.kappa is None or -1 <= found.kappa <= 1
    assert found.length is None or -1 <= found.length.low <= found.length.high <= 1
    assert found.calibration is None or 0 <= found.calibration.brier <= 1


@given(row_lists)
@settings(max_examples=50, deadline=None)
def test_an_audit_does_not_know_which_answer_is_called_a(table):
    other = {"a": "b", "b": "a"}
    mirrored = [
        LabelledVerdict(
            label=other.get(r.label, r.label),
            outcome=other.get(r.outcome, r.outcome),
            p_a=None if r.p_a is None else 1 - r.p_a,
            shown_ab=other.get(r.shown_ba, r.shown_ba),
            shown_ba=other.get(r.shown_ab, r.shown_ab),
            len_a=r.len_b,
            len_b=r.len_a,
        )
        for r in table
    ]
    one, two = audit(table), audit(mirrored)
    assert (one.agreement, one.position, one.ties) == (two.agreement, two.position, two.ties)
    assert one.kappa == pytest.approx(two.kappa)
