"""What a round's pairs and labels are outside the queue: the nouns that every format is written from and read into."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sqlalchemy import select

from judge.human.database import Database
from judge.human.schema import annotators, labels, payloads, tasks
from judge.human.types import LABELS, GivenLabel, Label, RoundView, Strength
from judge.human.wire import given_label, parse_payload
from rollout.types import Message

Side = Literal["left", "right"]
_BATCH = 256  # pairs in memory at a time: a completion may be a megabyte
CRITERION = "criterion_"  # so that a criterion never takes the name of another column or question


@dataclass(frozen=True, kw_only=True)
class NamedLabel:
    """A label as it stands in the queue, with the name of who gave it. is_counted: neither late nor in quarantine."""

    annotator: str
    is_counted: bool
    given: GivenLabel


@dataclass(frozen=True, kw_only=True)
class LabelledPair:
    """A pair of a round with all of its labels, late ones too. outcome is None while nothing is settled."""

    key: str
    prompt_id: str
    a: int
    b: int
    messages: tuple[Message, ...]
    text_a: str
    text_b: str
    gold: str | None
    origin: str
    outcome: str | None
    reason: str
    is_adjudicated: bool
    labels: tuple[NamedLabel, ...]

    @property
    def side_of_a(self) -> Side:
        """Where other tools show a: drawn from the key, so that neither answer is always the first."""
        return "right" if hashlib.sha256(f"sides:{self.key}".encode()).digest()[0] & 1 else "left"


@dataclass(frozen=True, kw_only=True)
class ForeignLabel:
    """A label read from a file. annotator is None where the file names nobody; at is None where it has no time."""

    key: str
    annotator: str | None
    label: Label
    strength: Strength | None = None
    reason: str = ""
    comment: str = ""
    criteria: Mapping[str, str] = field(default_factory=dict)
    swapped: bool = False
    seconds: float = 0.0
    at: float | None = None


@dataclass(frozen=True, kw_only=True)
class Unreadable:
    """An entry of a file that holds no label; reason is what it is counted under."""

    reason: str


def labelled_pairs(db: Database, row_id: int) -> Iterator[LabelledPair]:
    """The pairs of a round in the order of their keys, gold among them, a batch in memory at a time."""
    after = ""
    while True:
        wanted = (
            select(tasks, payloads.c.payload)
            .join(payloads, payloads.c.task_row == tasks.c.id)
            .where(tasks.c.round_row == row_id, tasks.c.key > after)
            .order_by(tasks.c.key)
        )
        with db.read() as connection:
            rows = connection.execute(wanted.limit(_BATCH)).mappings().all()
            given = _labels_of(connection, [row["id"] for row in rows])
        if not rows:
            return
        for row in rows:
            yield _pair(row, given.get(row["id"], ()))
        after = rows[-1]["key"]


def from_side(choice: str, side_of_a: Side) -> Label:
    """A choice by side (left, right, tie, both_bad) as a label on a and b. Raises ValueError for any other choice."""
    if choice in ("left", "right"):
        return "a" if choice == side_of_a else "b"
    if choice in LABELS[2:4]:
        return choice
    raise ValueError(f"got choice {choice!r}, expected left, right, tie or both_bad")


def to_side(label: str, side_of_a: Side) -> str:
    """The inverse of from_side: a label on a and b by the side that it was shown on."""
    if label in ("a", "b"):
        return side_of_a if label == "a" else ("left" if side_of_a == "right" else "right")
    return label


def said(answers: Mapping[str, str], side_of_a: Side) -> dict[str, Any]:
    """What was said beside the choice, as fields of a ForeignLabel, from the answers to the questions by name."""
    return {
        "strength": answers.get("strength"),
        "reason": answers.get("reason", ""),
        "comment": answers.get("comment", ""),
        "criteria": {
            name.removeprefix(CRITERION): from_side(choice, side_of_a)
            for name, choice in answers.items()
            if name.startswith(CRITERION)
        },
    }


def round_columns(view: RoundView) -> dict[str, Any]:
    """Which round a row belongs to."""
    key = view.key
    return {"run_id": key.run_id, "run_name": view.run_name, "round_id": key.round_id, "purpose": key.purpose}


def _labels_of(connection: Any, task_rows: list[int]) -> dict[int, tuple[NamedLabel, ...]]:
    found = connection.execute(
        select(labels, annotators.c.name)
        .join(annotators, annotators.c.id == labels.c.annotator_id)
        .where(labels.c.task_row.in_(task_rows))
        .order_by(labels.c.task_row, labels.c.id)
    ).mappings()
    by_task: dict[int, list[NamedLabel]] = {}
    for row in found:
        named = NamedLabel(annotator=row["name"], is_counted=bool(row["is_counted"]), given=given_label(row))
        by_task.setdefault(row["task_row"], []).append(named)
    return {task_row: tuple(given) for task_row, given in by_task.items()}


def _pair(row: Mapping[Any, Any], given: tuple[NamedLabel, ...]) -> LabelledPair:
    payload = parse_payload(row["payload"])
    return LabelledPair(
        key=row["key"],
        prompt_id=row["prompt_id"],
        a=row["a"],
        b=row["b"],
        messages=tuple(payload["messages"]),
        text_a=payload["a"],
        text_b=payload["b"],
        gold=row["gold"],
        origin=row["origin"],
        outcome=row["outcome"],
        reason=row["reason"],
        is_adjudicated=row["adjudicated_by"] is not None,
        labels=given,
    )
