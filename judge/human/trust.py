"""Who labels with care: answers on gold pairs, and the quarantine that follows, which can be lifted."""

from typing import cast

from sqlalchemy import Connection, and_, bindparam, case, func, select, update

from judge.human.database import Database
from judge.human.events import write_event
from judge.human.leases import end_leases
from judge.human.schema import annotators, labels, leases, rounds, tasks
from judge.human.settling import resettle
from judge.human.types import Rules
from rollout.errors import UsageError

_GOLD = (
    select(func.count(), func.coalesce(func.sum(case((labels.c.label == tasks.c.gold, 1), else_=0)), 0))
    .join(tasks, tasks.c.id == labels.c.task_row)
    .join(annotators, annotators.c.id == labels.c.annotator_id)
    .where(labels.c.annotator_id == bindparam("me"), labels.c.submitted_at > annotators.c.gold_counts_from)
    .where(tasks.c.gold.is_not(None), labels.c.label != "skip", ~labels.c.is_late)
)
_OPEN = (
    select(labels.c.id, labels.c.task_row)
    .join(tasks, tasks.c.id == labels.c.task_row)
    .join(rounds, rounds.c.id == tasks.c.round_row)
    .where(labels.c.annotator_id == bindparam("me"), rounds.c.state != "sealed", ~labels.c.is_late)
)
_COUNT = update(labels).where(labels.c.id == bindparam("label_row")).values(is_counted=bindparam("counts"))
_HELD = select(leases.c.id, leases.c.task_row).where(
    and_(leases.c.annotator_id == bindparam("me"), leases.c.state == "active")
)


def gold_accuracy(connection: Connection, annotator_id: int) -> tuple[int, int]:
    """Gold pairs that an annotator got right, and answered at all, since the last lifted quarantine; skips left out."""
    num_answered, num_right = connection.execute(_GOLD, {"me": annotator_id}).one()
    return int(num_right), int(num_answered)


def is_below(num_right: int, num_answered: int, rules: Rules) -> bool:
    """Whether so many right answers are too few by these rules."""
    return num_answered >= rules.gold_min_answers and num_right < rules.gold_min_accuracy * num_answered


def quarantine(database: Database, annotator_id: int, on: bool, by: str) -> None:
    """Put an annotator's labels of unsealed rounds aside, or count them again; their pairs are settled anew.

    Lifting it starts the count of gold answers anew. Raises UsageError for an unknown annotator.
    """
    database.transact(lambda connection: set_quarantine(connection, annotator_id, on, by))


def set_quarantine(connection: Connection, annotator_id: int, on: bool, by: str) -> set[int]:
    """What `quarantine` does, within the caller's transaction; the rounds that this sealed."""
    me = {"me": annotator_id}
    mine = annotators.c.id == annotator_id
    query = select(annotators.c.is_quarantined, annotators.c.name).where(mine)
    row = connection.execute(query.with_for_update(key_share=True)).one_or_none()
    if row is None:
        raise UsageError(f"the queue has no annotator {annotator_id}")
    if row.is_quarantined == on:
        return set()
    now = connection.get_execution_options()["clock"]()
    change = {"is_quarantined": True} if on else {"is_quarantined": False, "gold_counts_from": now}
    connection.execute(update(annotators).where(mine), change)
    held = connection.execute(_HELD, me).all()
    if on and held:
        end_leases(connection, held, "released")
    found = connection.execute(_OPEN, me).all()
    if found:
        connection.execute(_COUNT, [{"label_row": label.id, "counts": not on} for label in found])
    action = "quarantine" if on else "lift_quarantine"
    write_event(connection, actor=by, action=action, annotator_id=annotator_id, name=row.name, num_labels=len(found))
    return resettle(connection, [cast(int, label.task_row) for label in found])
