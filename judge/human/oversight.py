"""What an administrator sees of the queue, and the one verdict that they can give themselves."""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from sqlalchemy import Connection, func, or_, select, update

from judge.human.database import Database
from judge.human.errors import Invalid, RoundSealed
from judge.human.events import write_event
from judge.human.schema import annotators, events, labels, payloads, rounds, tasks
from judge.human.settling import resettle
from judge.human.trust import gold_accuracy
from judge.human.types import GivenLabel
from judge.human.wire import given_label, parse_payload
from rollout.errors import UsageError
from rollout.types import Message

_MINUTE_S = 60.0
_NUM_MINUTES = 60
Decision = Literal["a", "b", "tie", "both_bad"]
_OUTCOMES: tuple[Decision, ...] = get_args(Decision)


@dataclass(frozen=True, kw_only=True)
class AnnotatorRow:
    """One annotator's work over all rounds. left_share is of the num_sided labels for one side; None without."""

    annotator_id: int
    name: str
    role: str
    is_disabled: bool
    is_quarantined: bool
    num_labels: int
    num_skips: int
    median_seconds: float | None
    gold_right: int
    gold_answered: int
    num_sided: int
    left_share: float | None


@dataclass(frozen=True, kw_only=True)
class Disagreement:
    """A pair on which annotators differ, with both answers and who said what; outcome None while unsettled."""

    task_id: str
    key: str
    prompt_id: str
    messages: tuple[Message, ...]
    text_a: str
    text_b: str
    outcome: str | None
    reason: str
    adjudicated_by: str | None
    labels: tuple[tuple[str, GivenLabel], ...]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One line of the audit log; task_id is the pair's public one."""

    at: float
    actor: str
    action: str
    round_row: int | None
    task_id: str | None
    detail: Mapping[str, Any]


def annotator_rows(database: Database) -> list[AnnotatorRow]:
    """Every annotator with what they did, in the order of their accounts."""
    given: dict[int, list[Any]] = defaultdict(list)
    query = select(labels.c.annotator_id, labels.c.label, labels.c.swapped, labels.c.seconds)
    with database.read() as connection:
        for row in connection.execute(query):
            given[row.annotator_id].append(row)
        people = connection.execute(select(annotators).order_by(annotators.c.id)).all()
        return [_annotator_row(connection, person, given[person.id]) for person in people]


def _annotator_row(connection: Connection, person: Any, rows: list[Any]) -> AnnotatorRow:
    num_skips = sum(row.label == "skip" for row in rows)
    sided = [row for row in rows if row.label in {"a", "b"}]
    num_left = sum((row.label == "b") == row.swapped for row in sided)
    num_right, num_answered = gold_accuracy(connection, person.id) if rows else (0, 0)
    return AnnotatorRow(
        annotator_id=person.id,
        name=person.name,
        role=person.role,
        is_disabled=person.is_disabled,
        is_quarantined=person.is_quarantined,
        num_labels=len(rows) - num_skips,
        num_skips=num_skips,
        median_seconds=statistics.median(row.seconds for row in rows) if rows else None,
        gold_right=num_right,
        gold_answered=num_answered,
        num_sided=len(sided),
        left_share=num_left / len(sided) if sided else None,
    )


def throughput(database: Database, row_id: int) -> list[tuple[float, int]]:
    """Labels of a round in each minute of the last hour, oldest first, by the time at which the minute began."""
    now = database.clock()
    start = now - _NUM_MINUTES * _MINUTE_S
    query = (
        select(labels.c.submitted_at)
        .join(tasks, tasks.c.id == labels.c.task_row)
        .where(tasks.c.round_row == row_id, labels.c.submitted_at > start, ~labels.c.is_late)
    )
    with database.read() as connection:
        minutes = Counter(int((at - start) // _MINUTE_S) for at in connection.execute(query).scalars())
    minutes[_NUM_MINUTES - 1] += minutes.pop(_NUM_MINUTES, 0)  # what was handed in at this very moment
    return [(start + minute * _MINUTE_S, minutes[minute]) for minute in range(_NUM_MINUTES)]


def disagreements(database: Database, row_id: int) -> list[Disagreement]:
    """Pairs of a round with unequal labels, and those given up for want of a majority; the unsettled ones first."""
    differs = (
        select(labels.c.task_row)
        .where(labels.c.is_counted, labels.c.label != "skip")
        .group_by(labels.c.task_row)
        .having(func.count(labels.c.label.distinct()) > 1)
    )
    query = (
        select(tasks, payloads.c.payload, annotators.c.name.label("adjudicator"))
        .join(payloads, payloads.c.task_row == tasks.c.id)
        .outerjoin(annotators, annotators.c.id == tasks.c.adjudicated_by)
        .where(tasks.c.round_row == row_id, tasks.c.gold.is_(None))
        .where(or_(tasks.c.id.in_(differs), tasks.c.reason == "no_majority"))
        .order_by(tasks.c.outcome.in_(_OUTCOMES), tasks.c.id)
    )
    said = (
        select(labels, annotators.c.name)
        .join(annotators, annotators.c.id == labels.c.annotator_id)
        .join(tasks, tasks.c.id == labels.c.task_row)
        .where(tasks.c.round_row == row_id, labels.c.task_row.in_(differs), labels.c.is_counted)
        .order_by(labels.c.id)
    )
    given: dict[int, list[tuple[str, GivenLabel]]] = defaultdict(list)
    with database.read() as connection:
        for row in connection.execute(said):
            given[row.task_row].append((row.name, given_label(row)))
        return [_disagreement(row, given[row.id]) for row in connection.execute(query)]


def _disagreement(row: Any, given: list[tuple[str, GivenLabel]]) -> Disagreement:
    payload = parse_payload(row.payload)
    return Disagreement(
        task_id=row.public_id,
        key=row.key,
        prompt_id=row.prompt_id,
        messages=tuple(payload["messages"]),
        text_a=payload["a"],
        text_b=payload["b"],
        outcome=row.outcome,
        reason=row.reason,
        adjudicated_by=row.adjudicator,
        labels=tuple(given),
    )


def adjudicate(database: Database, task_id: str, outcome: Decision | None, by: str) -> None:
    """Settle a pair by an administrator's word, which labels then do not change; None takes it back.

    Raises RoundSealed, Invalid for another outcome or a gold pair, UsageError for an unknown pair or administrator.
    """
    if outcome is not None and outcome not in _OUTCOMES:
        raise Invalid("An adjudication must be a, b, tie or both_bad.")

    def deed(connection: Connection) -> None:
        query = (
            select(tasks, rounds.c.state)
            .join(rounds, rounds.c.id == tasks.c.round_row)
            .where(tasks.c.public_id == task_id)
            .with_for_update(key_share=True, of=tasks)
        )
        task = connection.execute(query).one_or_none()
        who = connection.execute(select(annotators.c.id).where(annotators.c.name == by)).scalar()
        if task is None or who is None:
            raise UsageError(f"the queue has no {'pair ' + task_id if task is None else 'administrator ' + by}")
        if task.state == "sealed":
            raise RoundSealed("This round is sealed, and its outcomes stand.")
        if task.gold is not None:
            raise Invalid("This is a pair with a known answer; there is nothing to adjudicate.")
        action = "adjudicate" if outcome else "withdraw_adjudication"
        write_event(
            connection,
            actor=by,
            action=action,
            round_row=task.round_row,
            task_row=task.id,
            before=task.outcome,
            outcome=outcome,
        )
        word = update(tasks).where(tasks.c.id == task.id)
        connection.execute(word, {"adjudicated_by": None if outcome is None else who})
        resettle(connection, [task.id], word={task.id: outcome} if outcome else None)

    database.transact(deed)


def events_of(
    database: Database, round_row: int | None, limit: int, *, leaving_out: Collection[str] = ()
) -> list[Event]:
    """The last events of a round, or of the whole queue, newest first; leaving_out: actions that are not asked for."""
    query = select(events, tasks.c.public_id).outerjoin(tasks, tasks.c.id == events.c.task_row)
    if round_row is not None:
        query = query.where(events.c.round_row == round_row)
    if leaving_out:
        query = query.where(events.c.action.not_in(leaving_out))
    with database.read() as connection:
        rows = connection.execute(query.order_by(events.c.id.desc()).limit(limit)).all()
    return [
        Event(
            at=row.at,
            actor=row.actor,
            action=row.action,
            round_row=row.round_row,
            task_id=row.public_id,
            detail=json.loads(row.detail),
        )
        for row in rows
    ]
