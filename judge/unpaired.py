"""Answers that are learnt from by themselves: which are desirable, which are undesirable, and which are neither.

Reasons: too_few (none was judged), undecided (its value lies between the thresholds, as that of a tie does), duplicate
(the same text or tokens as an answer before it), truncated.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from operator import attrgetter

from judge.pairing_config import PairingConfig
from judge.selection import Choice, Selection, same
from rollout.types import Completion, CompletionGroup


def select_unpaired(group: CompletionGroup, values: Mapping[int, float], config: PairingConfig) -> Selection:
    """One-sided choices that follow from the values of a group's completions (by index), the lower index first."""
    judged = sorted((one for one in group.completions if one.index in values), key=attrgetter("index"))
    if not judged:
        return Selection(choices=(), dropped={"too_few": 1})
    choices: list[Choice] = []
    dropped: Counter[str] = Counter()
    for place, one in enumerate(judged):
        choice = _choice(one.index, values[one.index], config)
        is_copy = any(same(one, other) for other in judged[:place])
        reason = next((reason for reason, fails in _checks(one, choice, config, is_copy=is_copy) if fails), None)
        if reason is None and choice is not None:
            choices.append(choice)
        elif reason is not None:
            dropped[reason] += 1
    return Selection(choices=tuple(choices), dropped=dict(dropped))


def _choice(index: int, value: float, config: PairingConfig) -> Choice | None:
    if config.desirable_from is not None and value >= config.desirable_from:
        return Choice(chosen=index, rejected=None, value_chosen=value, value_rejected=None, margin=None)
    if config.undesirable_to is not None and value <= config.undesirable_to:
        return Choice(chosen=None, rejected=index, value_chosen=None, value_rejected=value, margin=None)
    return None


def _checks(
    one: Completion, choice: Choice | None, config: PairingConfig, *, is_copy: bool
) -> Iterator[tuple[str, bool]]:
    yield "duplicate", is_copy
    yield "undecided", choice is None
    is_dropped = config.truncated == "drop_any" or (
        config.truncated == "drop_rejected" and choice is not None and choice.rejected is not None
    )
    yield "truncated", is_dropped and one.finish_reason == "length"
