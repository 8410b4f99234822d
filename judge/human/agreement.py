"""How far annotators agree: Krippendorff's alpha over all, Cohen's kappa for each two."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from sqlalchemy import select

from judge.human.database import Database
from judge.human.schema import labels, tasks
from judge.human.types import Label

_ORDER: tuple[Label, ...] = ("a", "b", "tie", "both_bad")


@dataclass(frozen=True, kw_only=True)
class PairAgreement:
    """Two annotators on the num_common pairs that both labelled; kappa None where chance leaves nothing to explain."""

    first: int
    second: int
    kappa: float | None
    share: float
    num_common: int


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement on one round; alpha None where too few pairs have two labels, or all labels are the same."""

    alpha: float | None
    num_units: int
    pairs: tuple[PairAgreement, ...]


def krippendorff_alpha(units: Sequence[Sequence[Label]]) -> float | None:
    """Krippendorff's alpha for nominal labels (Content Analysis, 2004, chapter 11), one sequence of labels a pair.

    None where fewer than two pairs have two labels, or everybody always said the same: it is not defined there.
    """
    import krippendorff

    counts = [Counter(unit) for unit in units if len(unit) > 1]
    if len(counts) < 2 or len({label for count in counts for label in count}) < 2:
        return None
    table = [[count[label] for label in _ORDER] for count in counts]
    return _defined(float(krippendorff.alpha(value_counts=table, level_of_measurement="nominal")))


def cohen_kappa(first: Sequence[Label], second: Sequence[Label]) -> float | None:
    """Cohen's kappa of two annotators on the same pairs (Educational and Psychological Measurement, 1960).

    None for fewer than two pairs, or where both always said the same one thing.
    """
    if len(first) < 2 or len({*first, *second}) < 2:
        return None
    from sklearn.metrics import cohen_kappa_score

    return _defined(float(cohen_kappa_score(list(first), list(second))))


def agreement(database: Database, row_id: int) -> Agreement:
    """Agreement on a round so far, from the labels that count; skips and gold left out."""
    query = (
        select(labels.c.task_row, labels.c.annotator_id, labels.c.label)
        .join(tasks, tasks.c.id == labels.c.task_row)
        .where(tasks.c.round_row == row_id, tasks.c.gold.is_(None))
        .where(labels.c.is_counted, ~labels.c.is_late, labels.c.label != "skip")
        .order_by(labels.c.task_row, labels.c.annotator_id)
    )
    said: dict[int, list[tuple[int, Label]]] = defaultdict(list)
    with database.read() as connection:
        for row in connection.execute(query):
            said[row.task_row].append((row.annotator_id, row.label))
    both: dict[tuple[int, int], list[tuple[Label, Label]]] = defaultdict(list)
    for given in said.values():
        for (first, label), (second, other) in combinations(given, 2):
            both[first, second].append((label, other))
    units = [[label for _annotator, label in given] for given in said.values() if len(given) > 1]
    pairs = tuple(_between(*who, both[who]) for who in sorted(both))
    return Agreement(alpha=krippendorff_alpha(units), num_units=len(units), pairs=pairs)


def _between(first: int, second: int, common: Sequence[tuple[Label, Label]]) -> PairAgreement:
    return PairAgreement(
        first=first,
        second=second,
        kappa=cohen_kappa([label for label, _other in common], [other for _label, other in common]),
        share=sum(label == other for label, other in common) / len(common),
        num_common=len(common),
    )


def _defined(value: float) -> float | None:
    return None if math.isnan(value) else value
