"""Comparisons whose truth is known: skill, a judge's taste for length, and how hard instructions are."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class TinyComparisons:
    """float[N] each: lengths in characters, preferences in [0, 1] for the model, difficulties."""

    len_baseline: Floats
    len_model: Floats
    preferences: Floats
    difficulties: Floats


def make_comparisons(
    num: int,
    *,
    skill: float,
    length_weight: float,
    extra_length: float = 0.0,
    difficulty_weight: float = 0.0,
    seed: int,
) -> TinyComparisons:
    """Soft preferences by the logistic model itself, with noise on the log-odds."""
    rng = np.random.default_rng(seed)
    len_baseline = rng.integers(500, 3000, num).astype(np.float64)
    len_model = np.maximum(20, np.round(len_baseline + extra_length + rng.normal(0, 500, num)))
    difficulties = rng.normal(0, 1, num)
    delta = len_baseline - len_model
    logit = length_weight * np.tanh(delta / delta.std(ddof=1)) + difficulty_weight * difficulties + skill
    preferences = 1 / (1 + np.exp(-(logit + rng.normal(0, 0.5, num))))
    return TinyComparisons(
        len_baseline=len_baseline, len_model=len_model, preferences=preferences, difficulties=difficulties
    )
