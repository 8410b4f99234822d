"""How the labels on a pair become its state, and its round's counts follow, within a transaction that others opened."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, bindparam, select, update

from judge.human.resolution import GIVEN_UP, settle, wanted_labels
from judge.human.schema import labels, rounds, tasks
from judge.human.sealing import change_counts
from judge.human.together import Change
from judge.human.types import Label, Rules
from judge.human.wire import parse_rules

_BATCH = 500
_COLUMNS = ("num_labels", "num_skips", "num_held", "labels_wanted", "is_available", "outcome", "reason", "settled_at")
_UPDATE = (
    update(tasks)
    .where(tasks.c.id == bindparam("settled_row"))
    .values({name: bindparam(f"to_{name}") for name in _COLUMNS})
)
_TASKS = (
    select(tasks, rounds.c.rules)
    .join(rounds, rounds.c.id == tasks.c.round_row)
    .where(tasks.c.id.in_(bindparam("task_rows", expanding=True)))
    .where(tasks.c.gold.is_(None), rounds.c.state != "sealed")
    .order_by(tasks.c.id)
    .with_for_update(key_share=True, of=tasks)
)
_SAID = select(labels.c.task_row, labels.c.label).where(
    labels.c.task_row.in_(bindparam("task_rows", expanding=True)), labels.c.is_counted
)
_OUTCOMES = ("a", "b", "tie", "both_bad")


def standing(
    task: Row[Any], said: Sequence[Label], *, num_held: int, rules: Rules, adjudicated: Any, now: float
) -> dict[str, Any]:
    """What the columns of a task become, given every label on it that counts and the leases on it."""
    votes = [label for label in said if label != "skip"]
    num_skips = len(said) - len(votes)
    settled = settle(votes, num_skips, wanted_labels(task.key, rules), rules, adjudicated)
    is_open = settled.outcome is None
    return {
        "num_labels": len(votes),
        "num_skips": num_skips,
        "num_held": num_held,
        "labels_wanted": settled.labels_wanted,
        "is_available": is_open and len(votes) + num_held < settled.labels_wanted,
        "outcome": settled.outcome,
        "reason": settled.reason,
        "settled_at": None if is_open else now if task.settled_at is None else task.settled_at,
    }


def standing_change(task_row: int, new: Mapping[str, Any]) -> Change:
    """Writes what `standing` said of a task."""
    return _UPDATE, {"settled_row": task_row, **{f"to_{name}": value for name, value in new.items()}}


def moved_counts(task: Row[Any], new: Mapping[str, Any]) -> Counter[str]:
    """How far a task's new standing moves the counts of its round."""
    return Counter(
        resolved=_is_resolved(new["outcome"]) - _is_resolved(task.outcome),
        given_up=(new["outcome"] == GIVEN_UP) - (task.outcome == GIVEN_UP),
        labelled=new["num_labels"] - task.num_labels,
    )


def resettle(
    connection: Connection,
    task_rows: Iterable[int],
    held: Mapping[int, int] | None = None,
    word: Mapping[int, str] | None = None,
) -> set[int]:
    """Settle these tasks anew from the labels that count; the rounds that this sealed.

    Gold, and tasks of sealed rounds, are left as they are. held moves the leases on a task by so much; word is an
    outcome that an administrator gives it, which it then keeps. Raises TryAgain where a round was sealed meanwhile.
    """
    now = connection.get_execution_options()["clock"]()
    ids = sorted(set(task_rows))
    moved: dict[int, Counter[str]] = defaultdict(Counter)
    for start in range(0, len(ids), _BATCH):
        some = {"task_rows": ids[start : start + _BATCH]}
        found = connection.execute(_TASKS, some).all()
        said: dict[int, list[Label]] = defaultdict(list)
        for row in connection.execute(_SAID, some):
            said[row.task_row].append(row.label)
        standings = []
        for task in found:
            new = standing(
                task,
                said[task.id],
                num_held=task.num_held + (held or {}).get(task.id, 0),
                rules=parse_rules(task.rules),
                adjudicated=None if task.adjudicated_by is None else (word or {}).get(task.id, task.outcome),
                now=now,
            )
            standings.append(new)
            moved[task.round_row].update(moved_counts(task, new))
        if found:
            changes = [standing_change(task.id, new) for task, new in zip(found, standings, strict=True)]
            connection.execute(_UPDATE, [values for _statement, values in changes])
    return {row_id for row_id, counts in sorted(moved.items()) if change_counts(connection, row_id, counts)}


def _is_resolved(outcome: str | None) -> int:
    return int(outcome in _OUTCOMES)
