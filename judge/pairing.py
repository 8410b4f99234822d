"""Which completions are compared, and what the answers say of each: pure functions of the group and the answers."""

import itertools
import math
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

from judge.config import JudgeConfig
from judge.types import Answer, Score, Verdict
from rollout.types import CompletionGroup


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


def values_of(answers: Sequence[Answer], *, both_bad: float = 0.5) -> dict[int, float]:
    """The value of each judged completion by its index: its score, or its mean win probability in [0, 1].

    A tie counts one half for either side, a verdict of both_bad what `both_bad` says; abstentions count nowhere.
    """
    values = {
        answer.index: answer.value for answer in answers if isinstance(answer, Score) and answer.value is not None
    }
    wins = defaultdict(list)
    for answer in answers:
        if isinstance(answer, Verdict) and answer.outcome != "abstain":
            # Distances from one half: they are exactly opposite for the two sides, so that even cycles tie exactly.
            lead = lead_of(answer)
            leads = (both_bad - 0.5,) * 2 if answer.outcome == "both_bad" else (lead, -lead)
            wins[answer.a].append(leads[0])
            wins[answer.b].append(leads[1])
    return values | {index: 0.5 + math.fsum(won) / len(won) for index, won in wins.items()}


def reasons_of(answers: Sequence[Answer]) -> Counter[str]:
    """Abstentions by reason."""
    return Counter(answer.reason or "abstained" for answer in answers if _abstained(answer))


def lead_of(verdict: Verdict) -> float:
    """How far a is ahead, from -0.5 to 0.5: its probability less one half; a tie and an abstention are 0."""
    if verdict.outcome in ("tie", "both_bad", "abstain"):
        return 0.0
    return verdict.p_a - 0.5 if verdict.p_a is not None else 0.5 if verdict.outcome == "a" else -0.5


def _abstained(answer: Answer) -> bool:
    return answer.value is None if isinstance(answer, Score) else answer.outcome == "abstain"
