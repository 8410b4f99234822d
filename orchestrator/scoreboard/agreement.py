"""How a judge holds up against one's own labels, before it is trusted with a run."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, sqrt
from statistics import NormalDist
from typing import Literal

import numpy as np
from scipy.stats import pearsonr
from sklearn.metrics import brier_score_loss, cohen_kappa_score

from judge.types import Outcome

Label = Literal["a", "b", "tie"]

_VALUE = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
_LABELS = ["a", "b", "tie"]


@dataclass(frozen=True, kw_only=True)
class LabelledVerdict:
    """One labelled pair and what the judge said about it; outcomes are in terms of the answers, never of positions.

    outcome and p_a are the judge's final word; shown_ab and shown_ba its word where a, or b, was shown first, None
    where it was not asked that way. Lengths in characters.
    """

    label: Label
    outcome: Outcome
    p_a: float | None = None
    shown_ab: Outcome | None = None
    shown_ba: Outcome | None = None
    len_a: int = 0
    len_b: int = 0


@dataclass(frozen=True, kw_only=True)
class Share:
    """num of total, with the 95% Wilson interval; all three figures None where total is 0."""

    num: int
    total: int
    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class PositionBias:
    """changed: pairs answered in both orders whose verdict changed with the order (swap consistency is the rest).

    first_minus_second: of all single-order verdicts for one side, the share for the answer shown first less the
    share for the one shown second; 0 is no bias, 1 always the first. None where there is no such verdict.
    """

    changed: Share
    first_minus_second: float | None
    num_decided: int


@dataclass(frozen=True, kw_only=True)
class LengthBias:
    """Correlation of (judge - label) with tanh(length difference / sd), with its 95% interval by Fisher's z.

    Above 0 the judge prefers longer answers more than the labels do.
    """

    correlation: float
    low: float
    high: float
    num: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Expected calibration error and Brier score of p_a against labels a and b; both 0 for a perfect judge."""

    expected_error: float
    brier: float
    num: int


@dataclass(frozen=True, kw_only=True)
class Audit:
    """All of it. agreement counts ties as answers of their own; decisive_agreement only where both chose a side."""

    agreement: Share
    decisive_agreement: Share
    kappa: float | None
    position: PositionBias
    length: LengthBias | None
    calibration: Calibration | None
    abstained: Share
    ties: Share


def audit(rows: Sequence[LabelledVerdict]) -> Audit:
    """Every statistic of a judge against labels. Abstentions enter no figure but their own."""
    answered = [row for row in rows if row.outcome != "abstain"]
    decisive = [row for row in answered if row.label != "tie" and row.outcome in ("a", "b")]
    return Audit(
        agreement=wilson(sum(_side(row.outcome) == row.label for row in answered), len(answered)),
        decisive_agreement=wilson(sum(row.outcome == row.label for row in decisive), len(decisive)),
        kappa=kappa(answered),
        position=position_bias(rows),
        length=length_bias(answered),
        calibration=calibration(answered),
        abstained=wilson(len(rows) - len(answered), len(rows)),
        ties=wilson(sum(_side(row.outcome) == "tie" for row in answered), len(answered)),
    )


def wilson(num: int, total: int, *, alpha: float = 0.05) -> Share:
    """A share with Wilson's score interval (Wilson 1927): inside [0, 1], and with a width at 0 and 1."""
    if total == 0:
        return Share(num=num, total=0, mean=None, low=None, high=None)
    z = NormalDist().inv_cdf(1 - alpha / 2)
    share, shrink = num / total, 1 + z * z / total
    centre = (share + z * z / (2 * total)) / shrink
    half = z / shrink * sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    return Share(num=num, total=total, mean=share, low=max(0.0, centre - half), high=min(1.0, centre + half))


def kappa(rows: Sequence[LabelledVerdict]) -> float | None:
    """Cohen's kappa over a, b and tie: agreement beyond chance; None where there is nothing beyond chance to see."""
    answered = [row for row in rows if row.outcome != "abstain"]
    if len({row.label for row in answered} | {_side(row.outcome) for row in answered}) < 2:
        return None
    judged = [_side(row.outcome) for row in answered]
    found = float(cohen_kappa_score([row.label for row in answered], judged, labels=_LABELS))
    return None if isnan(found) else found


def position_bias(rows: Sequence[LabelledVerdict]) -> PositionBias:
    """How far the order of the answers decides. An abstention in either order leaves the pair out of `changed`."""
    both = [
        (_side(row.shown_ab), _side(row.shown_ba))
        for row in rows
        if row.shown_ab not in (None, "abstain") and row.shown_ba not in (None, "abstain")
    ]
    firsts = [row.shown_ab == "a" for row in rows if row.shown_ab in ("a", "b")]
    firsts += [row.shown_ba == "b" for row in rows if row.shown_ba in ("a", "b")]
    return PositionBias(
        changed=wilson(sum(one != other for one, other in both), len(both)),
        first_minus_second=float(2 * np.mean(firsts) - 1) if firsts else None,
        num_decided=len(firsts),
    )


def length_bias(rows: Sequence[LabelledVerdict]) -> LengthBias | None:
    """What length explains of the judge's deviation from the labels; None below 4 rows or where nothing varies."""
    answered = [row for row in rows if row.outcome != "abstain"]
    if len(answered) < 4:
        return None
    excess = np.array([_preference(row) - _VALUE[row.label] for row in answered])
    difference = np.array([float(row.len_a - row.len_b) for row in answered])
    if np.ptp(excess) == 0 or np.ptp(difference) == 0:
        return None
    found = pearsonr(np.tanh(difference / difference.std(ddof=1)), excess)
    low, high = found.confidence_interval(0.95)
    return LengthBias(correlation=float(found.statistic), low=float(low), high=float(high), num=len(answered))


def calibration(rows: Sequence[LabelledVerdict], *, num_bins: int = 10) -> Calibration | None:
    """How far p_a can be read as a probability: expected calibration error over bins of equal width, Brier score.

    Only rows with a probability and a label for one side; None without one. The error is the mean over rows of how
    far their bin's share of label a lies from its mean p_a (Naeini et al. 2015).
    """
    usable = [(row.p_a, row.label == "a") for row in rows if row.p_a is not None and row.label != "tie"]
    if not usable:
        return None
    p, labels = np.array([p for p, _ in usable]), np.array([float(label) for _, label in usable])
    bins = np.minimum((p * num_bins).astype(np.int64), num_bins - 1)
    gaps = np.bincount(bins, weights=p - labels, minlength=num_bins)
    brier = float(brier_score_loss(labels, p, pos_label=1.0))
    return Calibration(expected_error=float(np.abs(gaps).sum() / len(p)), brier=brier, num=len(p))


def _preference(row: LabelledVerdict) -> float:
    return _VALUE[row.outcome] if row.p_a is None else row.p_a


def _side(outcome: Outcome | None) -> str:
    return "tie" if outcome == "both_bad" else str(outcome)
