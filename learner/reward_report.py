"""How good a reward model is on pairs that it never saw: accuracy with its interval, and calibration."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.stats import binomtest

_NUM_BINS = 10
_SHARPEST = 1e3  # temperatures are looked for between its inverse and itself


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """Figures on held-out pairs; p = sigmoid(r_chosen - r_rejected) is the probability given to what was chosen.

    accuracy: share of pairs with r_chosen > r_rejected (equal rewards count as wrong), with Wilson's 95% interval.
    log_loss (nats) and brier are means of -log p and (1 - p)^2. ece: expected calibration error of the side that the
    model prefers, ten equal bins of its probability from one half to 1 (Guo et al. 2017, 1706.04599, equation 3).
    temperature: the T that minimises the log-loss of sigmoid((r_chosen - r_rejected) / T) here, above 1 where the model
    is too sure of itself; None where every pair, or no pair, is right, as no T is best then.
    """

    num_pairs: int
    num_prompts: int
    accuracy: float
    low: float
    high: float
    log_loss: float
    brier: float
    ece: float
    temperature: float | None
    mean_reward: float
    std_reward: float


def measure_held_out(chosen: Sequence[float], rejected: Sequence[float], *, num_prompts: int) -> HeldOut:
    """Figures from the rewards of both sides, pair by pair."""
    left, right = np.asarray(chosen, dtype=np.float64), np.asarray(rejected, dtype=np.float64)
    margin_N, rewards = left - right, np.concatenate([left, right])
    probability_N = _sigmoid(margin_N)
    num_right = int((margin_N > 0).sum())
    interval = binomtest(num_right, len(margin_N)).proportion_ci(confidence_level=0.95, method="wilson")
    return HeldOut(
        num_pairs=len(margin_N),
        num_prompts=num_prompts,
        accuracy=num_right / len(margin_N),
        low=float(interval.low),
        high=float(interval.high),
        log_loss=float(np.logaddexp(0.0, -margin_N).mean()),
        brier=float(np.square(1.0 - probability_N).mean()),
        ece=expected_calibration_error(margin_N),
        temperature=best_temperature(margin_N),
        mean_reward=float(rewards.mean()),
        std_reward=float(rewards.std()),
    )


def expected_calibration_error(margin_N: npt.NDArray[np.float64]) -> float:
    """Mean distance between confidence and accuracy over bins, weighted by pairs."""
    confidence_N = _sigmoid(np.abs(margin_N))
    bin_N = np.minimum(((confidence_N - 0.5) * 2 * _NUM_BINS).astype(int), _NUM_BINS - 1)
    gaps = [
        abs((margin_N[bin_N == each] > 0).mean() - confidence_N[bin_N == each].mean()) * (bin_N == each).mean()
        for each in np.unique(bin_N)
    ]
    return float(sum(gaps))


def best_temperature(margin_N: npt.NDArray[np.float64]) -> float | None:
    """The T that fits best, from the root of the log-loss's slope in 1 / T, which is monotone; None without a root."""

    def slope(inverse: float) -> float:
        return float(-(margin_N * _sigmoid(-inverse * margin_N)).mean())

    if not (slope(1 / _SHARPEST) < 0.0 < slope(_SHARPEST)):
        return None
    return 1.0 / float(brentq(slope, 1 / _SHARPEST, _SHARPEST))


def _sigmoid(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(0.5 * (1.0 + np.tanh(values / 2.0)))
