"""Win rates with intervals that respect how the comparisons were drawn."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from judge.types import Verdict
from orchestrator.types import Interval

_NUM_RESAMPLES = 2000
_VALUE = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}


def win_rate(verdicts: Iterable[Verdict], *, seed: int = 0) -> Interval | None:
    """How often a wins, ties one half, with a 95% bootstrap interval clustered by prompt; None without an answer.

    Answers to one prompt stand or fall together, so prompts are resampled, not comparisons (2411.00640, section 2).
    The interval is widened to Wilson's where every prompt agrees and a bootstrap would have no width.
    """
    by_prompt: dict[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.outcome in _VALUE:
            by_prompt[verdict.prompt_id].append(_VALUE[verdict.outcome])
    if not by_prompt:
        return None
    means = np.array([np.mean(by_prompt[prompt_id]) for prompt_id in sorted(by_prompt)])
    mean, num = float(means.mean()), len(means)
    draws = np.random.default_rng(seed).integers(0, num, size=(_NUM_RESAMPLES, num))
    low, high = np.quantile(means[draws].mean(axis=1), [0.025, 0.975])
    if means.std() == 0.0:
        low, high = _wilson(mean, num)
    return Interval(mean=mean, low=float(low), high=float(high), num_prompts=num)


def _wilson(share: float, num: int, z: float = 1.959964) -> tuple[float, float]:
    centre = (share + z * z / (2 * num)) / (1 + z * z / num)
    half = z / (1 + z * z / num) * np.sqrt(share * (1 - share) / num + z * z / (4 * num * num))
    return max(0.0, centre - half), min(1.0, centre + half)
