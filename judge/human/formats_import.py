"""Labels made elsewhere come in: each is checked, given its annotator, and settles its pair like one from the page."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import Connection, insert, select, update
from sqlalchemy.exc import IntegrityError

from judge.human.credentials import clean_name
from judge.human.database import Database, TryAgain
from judge.human.errors import Invalid
from judge.human.events import write_event
from judge.human.formats_rows import ForeignLabel, Unreadable
from judge.human.schema import annotators, labels, rounds, tasks
from judge.human.settling import resettle
from judge.human.types import RoundView
from judge.human.wire import digest, to_text

_BATCH = 500  # labels a transaction: people who label meanwhile wait for no more than that
_MAX_COMMENT = 4_000
_SIDES = frozenset({"a", "b", "tie"})
_FOREIGN = TypeAdapter(ForeignLabel)


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What became of a file's labels: num_labels came in (num_late after the seal), others did not, by reason."""

    num_labels: int
    num_late: int
    num_refused: Mapping[str, int] = field(default_factory=dict)


def import_into(
    db: Database, view: RoundView, found: Iterable[ForeignLabel | Unreadable], *, nobody: str, by: str, source: str
) -> Imported:
    """Take labels into a round. nobody: who gave those that name no annotator; source: the file, for the audit log.

    An annotator whose name has no account gets one without a password, so that nobody can sign in with it; with an
    account the label is that person's, who cannot label the pair twice. Importing the same file again changes nothing.
    """
    refused: Counter[str] = Counter()
    num_labels = num_late = 0
    remaining = iter(found)
    while batch := list(islice(remaining, _BATCH)):
        checked = [_checked(entry, view) for entry in batch]
        refused.update(entry for entry in checked if isinstance(entry, str))
        good = [entry for entry in checked if isinstance(entry, ForeignLabel)]
        taken, late, reasons = db.transact(partial(_take, view=view, good=good, nobody=nobody))
        num_labels, num_late = num_labels + taken, num_late + late
        refused.update(reasons)
    done = Imported(num_labels=num_labels, num_late=num_late, num_refused=dict(sorted(refused.items())))

    def note(connection: Connection) -> None:
        write_event(connection, actor=by, action="import", round_row=view.row_id, source=source, **vars(done))

    db.transact(note)
    return done


def _checked(entry: ForeignLabel | Unreadable, view: RoundView) -> ForeignLabel | str:
    """The label, or why it cannot be taken."""
    if isinstance(entry, Unreadable):
        return entry.reason
    try:
        label = _FOREIGN.validate_python(vars(entry), strict=False)
    except ValidationError as error:
        return f"bad_{error.errors()[0]['loc'][0]}"
    if not 0.0 <= label.seconds < float("inf") or (label.at is not None and not 0.0 <= label.at < float("inf")):
        return "bad_time"
    if len(label.comment) > _MAX_COMMENT or len(label.reason) > _MAX_COMMENT:
        return "bad_comment"
    if not label.criteria.keys() <= {name for name, _ in view.rules.criteria}:
        return "unknown_criterion"
    return "bad_criteria" if set(label.criteria.values()) - _SIDES else label


def _take(
    connection: Connection, view: RoundView, good: list[ForeignLabel], nobody: str
) -> tuple[int, int, Counter[str]]:
    reasons: Counter[str] = Counter()
    wanted = (tasks.c.round_row == view.row_id, tasks.c.key.in_({label.key for label in good}))
    task_rows = {row.key: row.id for row in connection.execute(select(tasks.c.id, tasks.c.key).where(*wanted))}
    people = _People(connection, nobody)
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    is_late = _is_sealed(connection, view.row_id)
    for label in good:
        if label.key not in task_rows:
            reasons["unknown_key"] += 1
        elif (person := people.of(label.annotator)) is None:
            reasons["bad_annotator"] += 1
        elif (task_rows[label.key], person.id) in rows:
            reasons["already_labelled"] += 1
        else:
            is_counted = not is_late and not person.is_quarantined
            marks = {"is_late": is_late, "is_counted": is_counted}
            rows[task_rows[label.key], person.id] = (
                _row(connection, view, label, task_rows[label.key], person.id) | marks
            )
    _drop_known(connection, rows, reasons)
    if rows:
        try:
            connection.execute(insert(labels), list(rows.values()))
        except IntegrityError as error:
            raise TryAgain("somebody labelled one of the pairs meanwhile") from error
    if is_late and rows:
        counted = {"num_late": rounds.c.num_late + len(rows)}
        connection.execute(update(rounds).where(rounds.c.id == view.row_id).values(**counted))
    elif rows:
        resettle(connection, {task_row for task_row, _ in rows})
    return len(rows), len(rows) if is_late else 0, reasons


def _drop_known(connection: Connection, rows: dict[tuple[int, int], dict[str, Any]], reasons: Counter[str]) -> None:
    """Leave out what its annotator has labelled already, by the page or by an earlier import."""
    known = select(labels.c.task_row, labels.c.annotator_id).where(
        labels.c.task_row.in_({task_row for task_row, _ in rows})
    )
    for task_row, annotator_id in connection.execute(known):
        if rows.pop((task_row, annotator_id), None):
            reasons["already_labelled"] += 1


def _is_sealed(connection: Connection, row_id: int) -> bool:
    # Unlocked: where the round is sealed after this, resettle refuses, and the transaction is run again.
    return bool(connection.execute(select(rounds.c.state).where(rounds.c.id == row_id)).scalar_one() == "sealed")


def _row(connection: Connection, view: RoundView, label: ForeignLabel, task_row: int, person: int) -> dict[str, Any]:
    reason = label.reason or ("skipped elsewhere" if label.label == "skip" else "")
    strength = label.strength if label.label in ("a", "b") else None  # only a side has one; other tools ask anyway
    about = {"strength": strength, "reason": reason, "comment": label.comment}
    body = about | {"criteria": dict(label.criteria)}
    token = hashlib.sha256(f"import:{view.row_id}:{task_row}:{person}".encode()).hexdigest()
    now: float = connection.get_execution_options()["clock"]()
    return {
        "task_row": task_row,
        "annotator_id": person,
        "lease_token": token,
        "label": label.label,
        "body": to_text(body),
        "body_sha256": digest(body),
        "swapped": label.swapped,
        "seconds": label.seconds,
        "submitted_at": now if label.at is None else label.at,
    }


@dataclass(frozen=True, kw_only=True)
class _Person:
    id: int
    is_quarantined: bool


class _People:
    """Accounts by name, whatever its case; made where there is none."""

    def __init__(self, connection: Connection, nobody: str) -> None:
        self._connection = connection
        self._nobody = nobody
        found = connection.execute(select(annotators.c.id, annotators.c.name, annotators.c.is_quarantined))
        self._known = {row.name.casefold(): _Person(id=row.id, is_quarantined=row.is_quarantined) for row in found}

    def of(self, name: str | None) -> _Person | None:
        """The account of that name, None where it cannot be a name."""
        try:
            clean = clean_name(name or self._nobody)
        except Invalid:
            return None
        if clean.casefold() not in self._known:
            now = self._connection.get_execution_options()["clock"]()
            made = self._connection.execute(
                insert(annotators).values(name=clean, role="annotator", created_at=now)
            ).inserted_primary_key
            assert made is not None
            self._known[clean.casefold()] = _Person(id=made[0], is_quarantined=False)
        return self._known[clean.casefold()]
