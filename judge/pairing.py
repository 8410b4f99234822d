"""Which completions are compared, and which two of them become a pair: pure functions of the group and the answers."""

import itertools
import math
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from judge.config import JudgeConfig, PairingConfig
from judge.types import Answer, Score, Verdict
from rollout.types import Completion, CompletionGroup


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Indices of the two completions of a pair; values and margin in the units of the judge."""

    chosen: int
    rejected: int
    value_chosen: float
    value_rejected: float
    margin: float


def comparisons(group: CompletionGroup, config: JudgeConfig) -> list[tuple[int, int]]:
    """The index pairs (a, b) that a pairwise judge compares, the lower index first; drawn by the prompt's id alone."""
    indices = sorted(completion.index for completion in group.completions)
    every = list(itertools.combinations(indices, 2))
    if config.comparisons == "anchor":
        return every[: max(len(indices) - 1, 0)]
    if config.comparisons == "random_k" and config.num_comparisons is not None:
        drawn = random.Random(group.prompt.prompt_id)  # seeded by a string: the same on every platform
        return sorted(drawn.sample(every, min(config.num_comparisons, len(every))))
    return every


def values_of(answers: Sequence[Answer]) -> dict[int, float]:
    """The value of each judged completion by its index: its score, or its mean win probability in [0, 1].

    A tie and a verdict of both_bad count one half for either side; abstentions count nowhere.
    """
    values = {
        answer.index: answer.value for answer in answers if isinstance(answer, Score) and answer.value is not None
    }
    wins = defaultdict(list)
    for answer in answers:
        if isinstance(answer, Verdict) and answer.outcome != "abstain":
            # Distances from one half: they are exactly opposite for the two sides, so that even cycles tie exactly.
            lead = _lead(answer)
            wins[answer.a].append(lead)
            wins[answer.b].append(-lead)
    return values | {index: 0.5 + math.fsum(leads) / len(leads) for index, leads in wins.items()}


def choose(group: CompletionGroup, values: Mapping[int, float], config: PairingConfig) -> Choice | str:
    """The best and the worst judged completion, the lowest index among equals; or the reason why there is no pair."""
    judged = [completion for completion in group.completions if completion.index in values]
    if len(judged) < 2:
        return "too_few"
    order = sorted(judged, key=attrgetter("index"))
    best = max(order, key=lambda completion: values[completion.index])
    worst = min(order, key=lambda completion: values[completion.index])
    high, low = values[best.index], values[worst.index]
    if high == low:
        return "duplicate" if all(_same(order[0], other) for other in order[1:]) else "tie"
    if _same(best, worst):
        return "duplicate"
    margin = min(high - low, sys.float_info.max)  # two finite scores may lie further apart than floats reach
    if margin < config.min_margin:
        return "below_margin"
    return Choice(chosen=best.index, rejected=worst.index, value_chosen=high, value_rejected=low, margin=margin)


def reasons_of(answers: Sequence[Answer]) -> Counter[str]:
    """Abstentions by reason."""
    return Counter(answer.reason or "abstained" for answer in answers if _abstained(answer))


def _lead(verdict: Verdict) -> float:
    if verdict.outcome in ("tie", "both_bad"):
        return 0.0
    return verdict.p_a - 0.5 if verdict.p_a is not None else 0.5 if verdict.outcome == "a" else -0.5


def _abstained(answer: Answer) -> bool:
    return answer.value is None if isinstance(answer, Score) else answer.outcome == "abstain"


def _same(left: Completion, right: Completion) -> bool:
    if left.text == right.text:
        return True
    return len(left.token_ids) == len(right.token_ids) and np.array_equal(left.token_ids, right.token_ids)
