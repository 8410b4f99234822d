"""One scale for all rounds: Bradley-Terry strengths from who beat whom."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import log

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

Floats = npt.NDArray[np.float64]

_ELO_PER_LOGIT = 400 / log(10)
_Z = 1.959964


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Policy a against policy b: preference in [0, 1] for a (1 a win, one half a tie), counted weight times.

    Comparisons of one prompt are not independent: hand over each prompt's mean once, so that intervals are honest.
    """

    a: int
    b: int
    preference: float
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Strength:
    """How strong a round's policy is, in logits above the anchor, with its standard error and 95% interval.

    elo, elo_low, elo_high are the same at 400 / ln 10 points a logit. The anchor has 0 and no error, by definition.
    """

    round_id: int
    logit: float
    standard_error: float
    low: float
    high: float

    @property
    def elo(self) -> float:
        return self.logit * _ELO_PER_LOGIT

    @property
    def elo_low(self) -> float:
        return self.low * _ELO_PER_LOGIT

    @property
    def elo_high(self) -> float:
        return self.high * _ELO_PER_LOGIT


def win_counts(comparisons: Iterable[Comparison], num_rounds: int) -> Floats:
    """float[R, R]: how often row beat column, ties one half to each. Raises ValueError for a round outside."""
    wins = np.zeros((num_rounds, num_rounds))
    for one in comparisons:
        if not (0 <= one.a < num_rounds and 0 <= one.b < num_rounds) or one.a == one.b:
            raise ValueError(f"comparison of {one.a} with {one.b}, expected two of 0 to {num_rounds - 1}")
        wins[one.a, one.b] += one.weight * one.preference
        wins[one.b, one.a] += one.weight * (1 - one.preference)
    return wins


def bradley_terry(wins: npt.ArrayLike, *, ridge: float = 0.1, anchor: int = 0) -> tuple[Strength, ...]:
    """Strengths of all rounds by P(i beats j) = sigmoid(s_i - s_j), the anchor's fixed at 0 (Bradley & Terry 1952).

    wins float[R, R] as `win_counts` gives them; the diagonal is not looked at. Maximises the likelihood less
    ridge / 2 * sum s^2 (a normal prior of variance 1 / ridge on each difference to the anchor), which keeps the
    undefeated finite and leaves rounds that nobody compared at 0 with a wide interval. Standard errors come from the
    inverse of the penalised Hessian. Raises ValueError for a matrix that is not square or has negative counts,
    and for a ridge that is not above 0.
    """
    counts = np.array(wins, dtype=np.float64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not (counts >= 0).all() or ridge <= 0:
        raise ValueError(f"expected a square matrix of counts >= 0 and a ridge > 0, got shape {counts.shape}, {ridge}")
    np.fill_diagonal(counts, 0.0)
    played = counts + counts.T
    free = np.arange(len(counts)) != anchor

    def spread(free_strengths: Floats) -> Floats:
        strengths = np.zeros(len(counts))
        strengths[free] = free_strengths
        return strengths

    def loss(free_strengths: Floats) -> float:
        s = spread(free_strengths)
        return float((counts * np.logaddexp(0, s[None, :] - s[:, None])).sum() + ridge / 2 * (s**2).sum())

    def gradient(free_strengths: Floats) -> Floats:
        s = spread(free_strengths)
        expected = played * expit(s[:, None] - s[None, :])
        slope = (expected - counts).sum(axis=1) + ridge * s
        return np.asarray(slope[free])

    def hessian(free_strengths: Floats) -> Floats:
        s = spread(free_strengths)
        p = expit(s[:, None] - s[None, :])
        information = played * p * (1 - p)
        whole = np.diag(information.sum(axis=1) + ridge) - information
        return np.asarray(whole[np.ix_(free, free)])

    best = np.zeros(int(free.sum()))
    if len(best):
        best = minimize(loss, best, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-10}).x
    errors = spread(np.sqrt(np.diag(np.linalg.inv(hessian(best)))) if len(best) else best)
    return tuple(_strength(r, s, e) for r, (s, e) in enumerate(zip(spread(best), errors, strict=True)))


def _strength(round_id: int, logit: float, error: float) -> Strength:
    return Strength(
        round_id=round_id,
        logit=float(logit),
        standard_error=float(error),
        low=float(logit - _Z * error),
        high=float(logit + _Z * error),
    )
