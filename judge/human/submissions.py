"""What an annotator hands in, and takes back; each function within a transaction that others opened."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

from sqlalchemy import Connection, Row, bindparam, delete, func, insert, select, update

from judge.human.errors import Conflict, Invalid, LeaseExpired, Quarantined, RoundSealed, TooFast, UnknownLease
from judge.human.events import event, write_event
from judge.human.leases import EXPIRED, QUARANTINED, SEALED, UNKNOWN, insert_lease
from judge.human.schema import annotators, labels, leases, rounds, tasks
from judge.human.sealing import change_counts
from judge.human.settling import moved_counts, resettle, standing, standing_change
from judge.human.together import Change, change_together
from judge.human.trust import gold_accuracy, is_below, set_quarantine
from judge.human.types import LABELS, Label, Lease, Receipt, Rules, Submission
from judge.human.wire import digest, parse_rules, to_text

_MOST_CHARACTERS = 4000
_PACE_S = 60.0
_SIDES = {"left": ("a", "b"), "right": ("b", "a")}

_HELD = (
    select(leases.c.id.label("lease_row"), leases.c.state, leases.c.swapped, leases.c.shown_at, leases.c.expires_at)
    .add_columns(tasks, rounds.c.state.label("round_state"), rounds.c.rules, annotators.c.is_quarantined)
    .add_columns(annotators.c.name.label("annotator"))
    .join(tasks, tasks.c.id == leases.c.task_row)
    .join(rounds, rounds.c.id == tasks.c.round_row)
    .join(annotators, annotators.c.id == leases.c.annotator_id)
    .where(leases.c.token == bindparam("token"), leases.c.annotator_id == bindparam("me"))
    .with_for_update(key_share=True, of=(annotators, leases, tasks))
)
_USED = select(labels.c.id, labels.c.body_sha256, labels.c.is_late).where(labels.c.lease_token == bindparam("token"))
_MINE_ON = select(labels.c.id).where(
    labels.c.task_row == bindparam("task_row"), labels.c.annotator_id == bindparam("me")
)
_LAST = (
    select(func.max(labels.c.submitted_at)).where(labels.c.annotator_id == bindparam("me")).correlate(None)
).scalar_subquery()
_PACE = select(
    func.count().label("num_recent"), func.min(labels.c.submitted_at).label("oldest"), _LAST.label("last")
).where(labels.c.annotator_id == bindparam("me"), labels.c.submitted_at > bindparam("since"))
# The number of the label to come, so that its row and what refers to it are written together. On SQLite it is what the
# table would give it: nobody else writes meanwhile.
_PACE_AND_NUMBER = {
    "postgresql": _PACE.add_columns(func.nextval(func.pg_get_serial_sequence("labels", "id")).label("label_id")),
    "sqlite": _PACE.add_columns(
        select(func.coalesce(func.max(labels.c.id), 0) + 1).correlate(None).scalar_subquery().label("label_id")
    ),
}
_INSERT = insert(labels).values({column.name: bindparam(f"new_{column.name}") for column in labels.columns})
_END = update(leases).where(leases.c.id == bindparam("lease_row")).values(state=bindparam("to_state"))
_LATE = update(rounds).where(rounds.c.id == bindparam("row_id")).values(num_late=rounds.c.num_late + 1)
_SAID = select(labels.c.label).where(labels.c.task_row == bindparam("task_row"), labels.c.is_counted)
_GIVEN = (
    select(labels, rounds.c.state.label("round_state"), rounds.c.rules, rounds.c.id.label("round_row"))
    .add_columns(annotators.c.is_quarantined, annotators.c.name.label("annotator"), leases.c.id.label("lease_row"))
    .join(tasks, tasks.c.id == labels.c.task_row)
    .join(rounds, rounds.c.id == tasks.c.round_row)
    .join(annotators, annotators.c.id == labels.c.annotator_id)
    .join(leases, leases.c.token == labels.c.lease_token)
    .where(labels.c.id == bindparam("label_row"), labels.c.annotator_id == bindparam("me"))
    .with_for_update(key_share=True, of=(annotators, leases, tasks))
)
_DELETE = delete(labels).where(labels.c.id == bindparam("label_row"))


def submit_label(
    connection: Connection, annotator_id: int, token: str, submission: Submission
) -> Receipt | RoundSealed:
    """Take a label: see `Tasks.submit`. A late one is stored, and its refusal returned for the caller to raise."""
    now = connection.get_execution_options()["clock"]()
    row = connection.execute(_HELD, {"token": token, "me": annotator_id}).one_or_none()
    if row is None:
        raise UnknownLease(UNKNOWN)
    rules = parse_rules(row.rules)
    _check(submission, rules)
    sha256 = digest(_as_json(submission))
    if row.state in {"submitted", "undone"}:
        return _replay(connection, token, sha256)
    # After the locks: it sees what those did who held them before.
    pace = _PACE_AND_NUMBER[connection.dialect.name]
    recent = {"me": annotator_id, "since": now - _PACE_S}
    num_recent, oldest, last, label_id = connection.execute(pace, recent).one()
    about = {"id": label_id, "annotator_id": annotator_id, "lease_token": token, "body_sha256": sha256}
    if row.round_state == "sealed":
        return _keep_late(connection, row, about | _label_row(row, submission, now, row.shown_at))
    if row.is_quarantined:
        raise Quarantined(QUARANTINED)
    if row.state != "active" or row.expires_at <= now:
        raise LeaseExpired(EXPIRED)
    since = max(row.shown_at, last or 0.0)  # a pair that was fetched ahead is looked at once the one before is done
    _check_pace(rules, now, since=since, num_recent=num_recent, oldest=oldest)
    new = about | _label_row(row, submission, now, since)
    detail = {"label_id": label_id, "label": new["label"], "annotator_id": annotator_id}
    written: list[Change] = [
        _insertion(new),
        (_END, {"lease_row": row.lease_row, "to_state": "submitted"}),
        event(connection, actor=row.annotator, action="label", round_row=row.round_row, task_row=row.id, **detail),
    ]
    if row.gold is None:
        sealed = _settle(connection, row, new["label"], rules, now, written)
        return Receipt(label_id=label_id, is_replay=False, is_round_sealed=sealed)
    change_counts(connection, row.round_row, along=written)  # a seal that came in between makes this label a late one
    if is_below(*gold_accuracy(connection, annotator_id), rules):
        sealed = row.round_row in set_quarantine(connection, annotator_id, True, "gold")
        return Receipt(label_id=label_id, is_replay=False, is_round_sealed=sealed)
    return Receipt(label_id=label_id, is_replay=False)


def _settle(
    connection: Connection, row: Row[Any], label: Label, rules: Rules, now: float, written: Sequence[Change]
) -> bool:
    said: list[Label] = [label]
    if row.num_labels or row.num_skips:
        said = [*connection.execute(_SAID, {"task_row": row.id}).scalars(), label]
    adjudicated = row.outcome if row.adjudicated_by is not None else None
    new = standing(row, said, num_held=row.num_held - 1, rules=rules, adjudicated=adjudicated, now=now)
    along = [*written, standing_change(row.id, new)]
    return change_counts(connection, row.round_row, moved_counts(row, new), along=along)


def _replay(connection: Connection, token: str, sha256: str) -> Receipt | RoundSealed:
    used = connection.execute(_USED, {"token": token}).one_or_none()
    if used is None or used.body_sha256 != sha256:
        raise Conflict("This pair has been answered differently already; undo that answer to change it.")
    return RoundSealed(SEALED) if used.is_late else Receipt(label_id=used.id, is_replay=True)


def _keep_late(connection: Connection, row: Row[Any], new: dict[str, Any]) -> RoundSealed:
    """Store a label that came after the seal, apart from those that count."""
    seen = {"task_row": row.id, "me": new["annotator_id"]}
    if connection.execute(_MINE_ON, seen).first() is None:
        late = _insertion(new | {"is_late": True, "is_counted": False})
        ended = (_END, {"lease_row": row.lease_row, "to_state": "submitted"})
        counted = (_LATE, {"row_id": row.round_row})
        told = event(connection, actor=row.annotator, action="late_label", round_row=row.round_row, task_row=row.id)
        change_together(connection, [late, ended, counted, told])
    return RoundSealed(SEALED)


def _check(submission: Submission, rules: Rules) -> None:
    if submission.choice not in {"left", "right", *LABELS[2:]}:
        raise Invalid("The answer must be left, right, tie, both_bad or skip.")
    if submission.strength not in {None, "slightly", "clearly"}:
        raise Invalid("The strength must be slightly or clearly, or be left out.")
    if submission.strength is not None and submission.choice not in _SIDES:
        raise Invalid("Only an answer for one side has a strength.")
    if submission.choice == "skip" and not submission.reason.strip():
        raise Invalid("Please say why this pair is skipped.")
    if max(len(submission.comment), len(submission.reason)) > _MOST_CHARACTERS:
        raise Invalid(f"A comment or reason may have {_MOST_CHARACTERS} characters.")
    unknown = sorted(submission.criteria.keys() - {name for name, _question in rules.criteria})
    if unknown:
        raise Invalid("There is an answer to a question that this round does not ask.")
    if any(value not in {"left", "right", "tie"} for value in submission.criteria.values()):
        raise Invalid("The answer to a question must be left, right or tie.")


def _check_pace(rules: Rules, now: float, *, since: float, num_recent: int, oldest: float | None) -> None:
    too_soon_s = since + rules.min_dwell_s - now
    if too_soon_s > 0:
        raise TooFast("That was quicker than anybody reads two answers; please look once more.", too_soon_s)
    if num_recent >= rules.labels_per_minute:
        wait_s = max((oldest or now) + _PACE_S - now, 0.1)
        raise TooFast(f"More than {rules.labels_per_minute} labels in a minute; please take a break.", wait_s)


def _label_row(row: Row[Any], submission: Submission, now: float, since: float) -> dict[str, Any]:
    body = {
        "strength": submission.strength,
        "reason": submission.reason,
        "comment": submission.comment,
        "criteria": {name: _across(side, row.swapped) for name, side in submission.criteria.items()},
    }
    return {
        "task_row": row.id,
        "label": _across(submission.choice, row.swapped),
        "body": to_text(body),
        "swapped": bool(row.swapped),
        "seconds": max(now - since, 0.0),
        "submitted_at": now,
        "is_late": False,
        "is_counted": True,
    }


def _insertion(new: Mapping[str, Any]) -> Change:
    return _INSERT, {f"new_{name}": value for name, value in new.items()}


def _across(side: str, swapped: bool) -> Any:
    """The pair's own side for a side of the screen; tie and the rest have none."""
    return _SIDES[side][swapped] if side in _SIDES else side


def choice_as_shown(label: str, swapped: bool) -> Any:
    """The side of the screen for the pair's own side."""
    sides = ("right", "left") if swapped else ("left", "right")
    return {"a": sides[0], "b": sides[1]}.get(label, label)


def _as_json(submission: Submission) -> dict[str, Any]:
    names: tuple[Literal["choice", "strength", "reason", "comment"], ...] = ("choice", "strength", "reason", "comment")
    return {name: getattr(submission, name) for name in names} | {"criteria": dict(submission.criteria)}


def undo_label(connection: Connection, annotator_id: int, label_id: int) -> tuple[Lease, Mapping[str, Any]]:
    """Take a label back: see `Tasks.undo`. The new lease, and what was handed in, by the sides as shown."""
    row = connection.execute(_GIVEN, {"label_row": label_id, "me": annotator_id}).one_or_none()
    if row is None:
        raise UnknownLease("There is no such label of yours.")
    if row.round_state == "sealed":
        raise RoundSealed("This round has ended, and its labels stand.")
    if row.is_quarantined:
        raise Quarantined(QUARANTINED)
    connection.execute(_DELETE, {"label_row": label_id})
    connection.execute(_END, {"lease_row": row.lease_row, "to_state": "undone"})
    body = json.loads(row.body)
    write_event(
        connection,
        actor=row.annotator,
        action="undo",
        round_row=row.round_row,
        task_row=row.task_row,
        label_id=label_id,
        label=row.label,
        body=body,
        seconds=row.seconds,
        submitted_at=row.submitted_at,
    )
    change_counts(connection, row.round_row)
    resettle(connection, [row.task_row], {row.task_row: 1})
    lease_s = parse_rules(row.rules).lease_s
    lease = insert_lease(connection, row.task_row, annotator_id, swapped=row.swapped, lease_s=lease_s)
    criteria = {name: choice_as_shown(side, row.swapped) for name, side in body["criteria"].items()}
    former = body | {"choice": choice_as_shown(row.label, row.swapped), "criteria": criteria}
    return lease, cast(Mapping[str, Any], former)
