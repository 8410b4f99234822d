"""When a pair is settled, and on what: pure rules, without a database."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

from judge.human.types import Label, Rules
from judge.types import Outcome

GIVEN_UP = "abstain"


@dataclass(frozen=True, kw_only=True)
class Settled:
    """Where a pair stands: outcome None while more labels are needed, abstain where it was given up for `reason`."""

    outcome: Outcome | None
    reason: str
    labels_wanted: int


def wanted_labels(key: str, rules: Rules) -> int:
    """Labels that the pair needs at first: overlap, and one more for a share double_share of the keys, by hash."""
    drawn = int.from_bytes(sha256(f"double:{key}".encode()).digest()[:8], "big") / 2**64
    return rules.overlap + (1 if drawn < rules.double_share else 0)


def settle(
    labels: Sequence[Label], num_skips: int, labels_wanted: int, rules: Rules, adjudicated: Outcome | None = None
) -> Settled:
    """Settle a pair from the labels that count, skips left out, in whatever order they came.

    labels_wanted is what the pair needs at first. Once as many are in, a strict majority settles; without one, one
    label more is asked for, up to rules.max_labels.
    """
    if adjudicated is not None:
        return Settled(outcome=adjudicated, reason="", labels_wanted=labels_wanted)
    wanted = labels_wanted
    if labels and len(labels) >= wanted:
        winner, num_votes = Counter(labels).most_common(1)[0]
        if 2 * num_votes > len(labels):
            assert winner != "skip"
            return Settled(outcome=winner, reason="", labels_wanted=len(labels))
        wanted = max(wanted, len(labels) + 1)
        if wanted > max(rules.max_labels, labels_wanted):
            return Settled(outcome="abstain", reason="no_majority", labels_wanted=len(labels))
    if num_skips >= rules.max_skips:
        return Settled(outcome="abstain", reason="all_skipped", labels_wanted=wanted)
    return Settled(outcome=None, reason="", labels_wanted=wanted)


def vote_share(labels: Sequence[Label]) -> float | None:
    """Share of the votes for a; a vote for neither (tie, both_bad) counts half. None for fewer than two votes."""
    votes = [label for label in labels if label != "skip"]
    if len(votes) < 2:
        return None
    return sum(1.0 if vote == "a" else 0.0 if vote == "b" else 0.5 for vote in votes) / len(votes)


def quorum(num_tasks: int, seal_share: float) -> int:
    """Resolved pairs that seal a round: the ceiling of the share, safe from the dust of binary fractions."""
    return math.ceil(num_tasks * seal_share - 1e-9)


def ending(*, num_tasks: int, num_resolved: int, num_given_up: int, seal_share: float) -> str:
    """Why a filled round ends now: `quorum`, `exhausted` (nothing is left to settle), or empty where it does not."""
    if num_resolved >= quorum(num_tasks, seal_share):
        return "quorum"
    return "exhausted" if num_resolved + num_given_up >= num_tasks else ""
