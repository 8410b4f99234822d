"""Intervals of means over prompts, paired differences between policies, and what looking every round costs."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import pi, sqrt
from statistics import NormalDist

import numpy as np

from judge.types import Verdict
from orchestrator.types import Interval

_VALUE = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}


def prompt_preferences(verdicts: Iterable[Verdict], *, soft: bool = False) -> dict[str, float]:
    """Mean preference for a in [0, 1] of each prompt, ties one half, sorted by prompt id; abstentions are left out.

    soft takes the judge's probability where it gave one. A prompt with abstentions alone is absent.
    """
    by_prompt: dict[str, list[float]] = defaultdict(list)
    for verdict in verdicts:
        if verdict.outcome in _VALUE:
            p_a = verdict.p_a if soft else None
            by_prompt[verdict.prompt_id].append(_VALUE[verdict.outcome] if p_a is None else p_a)
    return {prompt_id: float(np.mean(by_prompt[prompt_id])) for prompt_id in sorted(by_prompt)}


def mean_interval(
    values: Sequence[float], *, alpha: float = 0.05, bounds: tuple[float, float] = (0.0, 1.0)
) -> Interval | None:
    """Mean of one value a prompt with its 1 - alpha interval; None without values.

    Analytic: the normal interval after z^2 / 2 values are added at either bound (Agresti & Coull 1998, whose interval
    this is for values of 0 and 1). It keeps a width where all prompts agree, and widens as alpha is spent. A value is
    a prompt's mean, so that answers to one prompt are one observation (2411.00640, section 2.2). Raises ValueError
    for a value outside the bounds.
    """
    if not len(values):
        return None
    x, (lowest, highest) = np.asarray(values, dtype=np.float64), bounds
    if not ((x >= lowest) & (x <= highest)).all():
        raise ValueError(f"values must lie in [{lowest}, {highest}], got {x.min()} to {x.max()}")
    z = NormalDist().inv_cdf(1 - alpha / 2)
    num = len(x) + z * z
    centre = (x.sum() + z * z * (lowest + highest) / 2) / num
    variance = (((x - centre) ** 2).sum() + z * z / 2 * ((lowest - centre) ** 2 + (highest - centre) ** 2)) / num
    half = z * sqrt(variance / num)
    return Interval(
        mean=float(x.mean()),
        low=float(max(lowest, centre - half)),
        high=float(min(highest, centre + half)),
        num_prompts=len(x),
    )


def paired_difference(
    ours: Mapping[str, float], theirs: Mapping[str, float], *, alpha: float = 0.05
) -> Interval | None:
    """Ours minus theirs over the prompts that both have, in [-1, 1], with its 1 - alpha interval; None without one.

    Takes two policies' `prompt_preferences` against the same baseline. How hard a prompt is falls out of the
    difference, which is what makes pairing narrower than two separate intervals (2411.00640, section 4.2).
    """
    shared = sorted(ours.keys() & theirs.keys())
    return mean_interval([ours[p] - theirs[p] for p in shared], alpha=alpha, bounds=(-1.0, 1.0))


def look_alpha(look: int, *, alpha: float = 0.05) -> float:
    """What may be spent on look 1, 2, 3, ... so that all looks together miss with probability alpha at most.

    alpha_k = alpha * 6 / (pi^2 k^2), which sums to alpha over infinitely many looks. By the union bound it holds
    whatever the dependence between looks: rounds share their prompts, and each measures another policy, so that a
    martingale bound for one accumulating mean (2010.09686) would not fit.
    """
    if look < 1:
        raise ValueError(f"looks are counted from 1, got {look}")
    return alpha * 6 / (pi * pi * look * look)
