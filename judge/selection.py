"""Which completions of a group make pairs: candidates by the configured rule, then filters, each counted by its reason.

Reasons: too_few (fewer than two judged), duplicate (the same text or tokens), tie, length_reversed (the judge's order
and the length-penalised one contradict each other), below_margin, truncated, length_ratio, near_duplicate, over_cap.
"""

import itertools
import random
import statistics
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

import numpy as np

from judge.pairing_config import PairingConfig
from rollout.types import Completion, CompletionGroup

_NGRAM = 3
_LARGEST = sys.float_info.max


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Indices of the two completions of a pair, and their values in the units of the judge.

    margin is the difference of the values that the pair was selected by: less the length penalty, where there is one.
    A tie stands with the lower index as chosen. An answer by itself has one side, and no margin.
    """

    chosen: int | None
    rejected: int | None
    value_chosen: float | None
    value_rejected: float | None
    margin: float | None
    outcome: Literal["chosen", "tie"] = "chosen"


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The pairs of one prompt, the widest margin first and ties last, and the dropped candidates by reason."""

    choices: tuple[Choice, ...]
    dropped: Mapping[str, int]

    @property
    def reason(self) -> str:
        """The commonest reason for which candidates were dropped, the first in the alphabet among equals."""
        return min(self.dropped, key=lambda reason: (-self.dropped[reason], reason))


def select(group: CompletionGroup, values: Mapping[int, float], config: PairingConfig) -> Selection:
    """The pairs that follow from the values of a group's completions (by index); pure, and blind to their order."""
    judged = sorted((one for one in group.completions if one.index in values), key=attrgetter("index"))
    if len(judged) < 2:
        return Selection(choices=(), dropped={"too_few": 1})
    used = {one.index: penalised(values[one.index], one.text, config.length_penalty) for one in judged}
    choices: list[Choice] = []
    dropped: Counter[str] = Counter()
    for high, low in _candidates(judged, used, config, group.prompt.prompt_id):
        choice = _choice(high, low, values, used)
        reason = next((reason for reason, fails in _checks(high, low, choice, values, config) if fails), None)
        if reason is None:
            choices.append(choice)
        else:
            dropped[reason] += 1
    choices.sort(key=lambda choice: (choice.outcome == "tie", -(choice.margin or 0.0), choice.chosen, choice.rejected))
    cap = config.max_pairs_per_prompt
    if cap is not None and len(choices) > cap:
        dropped["over_cap"] += len(choices) - cap
        del choices[cap:]
    return Selection(choices=tuple(choices), dropped=dict(dropped))


def penalised(value: float, text: str, length_penalty: float) -> float:
    """The value less length_penalty for every 1,000 characters of the text."""
    return max(-_LARGEST, min(_LARGEST, value - length_penalty * len(text) / 1000))


def similarity(left: str, right: str) -> float:
    """Jaccard similarity in [0, 1] of the sets of character trigrams; a shorter text is a gram of its own."""
    grams_left, grams_right = _grams(left), _grams(right)
    return len(grams_left & grams_right) / len(grams_left | grams_right)


def _candidates(
    judged: Sequence[Completion], used: Mapping[int, float], config: PairingConfig, prompt_id: str
) -> Iterator[tuple[Completion, Completion]]:
    """Pairs (better, worse) by the values used; two equals come with the lower index first."""
    draw = random.Random(f"pair {prompt_id}")  # seeded by a string: the same on every platform
    if config.select == "all":
        yield from (_ordered(pair, used) for pair in itertools.combinations(judged, 2))
        return
    if config.select == "random":
        yield _ordered(draw.sample(judged, 2), used)
        return
    best = max(judged, key=lambda one: used[one.index])
    worse = [one for one in judged if used[one.index] < used[best.index]]
    if not worse:  # all alike: the first two that are no copies of each other stand for them
        yield judged[0], next((one for one in judged[1:] if not same(judged[0], one)), judged[1])
    elif config.select == "max_random":
        yield best, draw.choice(worse)
    elif config.select == "mu_minus_2sigma":
        yield best, _nearest_to_mu_minus_2sigma(worse, used)
    else:
        yield best, min(worse, key=lambda one: used[one.index])


def _nearest_to_mu_minus_2sigma(worse: Sequence[Completion], used: Mapping[int, float]) -> Completion:
    """Of those worse than the best, the one nearest the mean less two standard deviations (2502.16825).

    Mean and population deviation are over all judged completions; the lower value is taken of two equally near.
    """
    scale = max(abs(value) for value in used.values())  # squares of large values would overflow
    scaled = {index: value / scale for index, value in used.items()}
    target = statistics.fmean(scaled.values()) - 2 * statistics.pstdev(scaled.values())
    return min(worse, key=lambda one: (abs(scaled[one.index] - target), used[one.index], one.index))


def _ordered(pair: Sequence[Completion], used: Mapping[int, float]) -> tuple[Completion, Completion]:
    left, right = sorted(pair, key=lambda one: (-used[one.index], one.index))
    return left, right


def _choice(high: Completion, low: Completion, values: Mapping[int, float], used: Mapping[int, float]) -> Choice:
    tie = values[high.index] == values[low.index]  # the judge's tie: no length penalty makes a label of it
    first, second = sorted((high, low), key=attrgetter("index")) if tie else (high, low)
    return Choice(
        chosen=first.index,
        rejected=second.index,
        value_chosen=values[first.index],
        value_rejected=values[second.index],
        # Two finite scores may lie further apart than floats reach.
        margin=0.0 if tie else min(used[high.index] - used[low.index], _LARGEST),
        outcome="tie" if tie else "chosen",
    )


def _checks(
    high: Completion, low: Completion, choice: Choice, values: Mapping[int, float], config: PairingConfig
) -> Iterator[tuple[str, bool]]:
    """Each reason and whether it speaks against the candidate; the cheap ones first, the others only where needed."""
    tie, margin = choice.outcome == "tie", choice.margin or 0.0
    yield "duplicate", same(high, low)
    yield "tie", tie and not config.keep_ties
    yield "length_reversed", not tie and (values[high.index] < values[low.index] or margin == 0.0)
    yield "below_margin", not tie and margin < config.min_margin
    high_cut, low_cut = (one.finish_reason == "length" for one in (high, low))
    drop_rejected = config.truncated == "drop_rejected" and low_cut and not tie
    yield "truncated", drop_rejected or (config.truncated == "drop_any" and (high_cut or low_cut))
    shorter, longer = sorted((len(high.text), len(low.text)))
    yield "length_ratio", config.max_length_ratio is not None and longer > config.max_length_ratio * shorter
    limit = config.max_similarity
    yield "near_duplicate", limit is not None and similarity(high.text, low.text) > limit


def same(left: Completion, right: Completion) -> bool:
    """Whether two completions are copies of each other, by their text or by their tokens."""
    if left.text == right.text:
        return True
    # Completions that nobody here sampled have no tokens, which is no likeness.
    return len(left.token_ids) == len(right.token_ids) > 0 and np.array_equal(left.token_ids, right.token_ids)


def _grams(text: str) -> set[str]:
    return {text[start : start + _NGRAM] for start in range(max(len(text) - _NGRAM + 1, 1))}
