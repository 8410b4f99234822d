"""Who holds which pair: drawn, extended, given back, swept; each function within a transaction that others opened."""

import hmac
import secrets
from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Connection, Row, and_, bindparam, exists, func, insert, select, true, update

from judge.human.errors import LeaseExpired, Quarantined, RoundSealed, UnknownLease
from judge.human.schema import annotators, labels, leases, payloads, rounds, tasks
from judge.human.types import Lease, Rules
from judge.human.wire import parse_payload, parse_rules

_SWEPT_AT_ONCE = 100
_LONGEST_HOLD = 12  # times lease_s, however often a forgotten browser asks for more
QUARANTINED = "Your labels are paused until an administrator has looked at them."
SEALED = "This round has ended. The next pair comes from the next round."
EXPIRED = "This pair was held for too long and went back to the queue."
UNKNOWN = "There is no such pair for you."

_EXPIRED = (
    select(leases.c.id, leases.c.task_row)
    .where(leases.c.state == "active", leases.c.expires_at <= bindparam("now"))
    .order_by(leases.c.expires_at)
    .limit(_SWEPT_AT_ONCE)
    .with_for_update(skip_locked=True)
)
_END = (
    update(leases).where(leases.c.id.in_(bindparam("lease_rows", expanding=True))).values(state=bindparam("to_state"))
)
_FREE = (
    update(tasks)
    .where(tasks.c.id == bindparam("task_row"), tasks.c.gold.is_(None))
    .values(
        num_held=tasks.c.num_held - 1,
        is_available=and_(tasks.c.outcome.is_(None), tasks.c.num_labels + tasks.c.num_held - 1 < tasks.c.labels_wanted),
    )
)
_MINE = (
    select(leases.c.token)
    .join(tasks, tasks.c.id == leases.c.task_row)
    .join(rounds, rounds.c.id == tasks.c.round_row)
    .where(leases.c.annotator_id == bindparam("me"), leases.c.state == "active")
    .where(leases.c.expires_at > bindparam("now"), rounds.c.state != "sealed")
    .order_by(leases.c.id)
)
# The annotator, once for each round that wants labels.
_ANNOTATOR = (
    select(annotators.c.is_quarantined, rounds.c.id, rounds.c.rules, rounds.c.deadline_at)
    .join_from(
        annotators,
        rounds,
        and_(
            rounds.c.state.in_(("open", "collecting")),
            rounds.c.num_resolved + rounds.c.num_given_up < rounds.c.num_tasks,
        ),
        isouter=True,
    )
    .where(annotators.c.id == bindparam("me"))
    .with_for_update(key_share=True, of=annotators)
)
_free = tasks.alias("free")


def _untouched(task_row: Any) -> Any:
    """The annotator has neither a label on the task nor a lease that is still theirs."""
    labelled = exists().where(labels.c.task_row == task_row, labels.c.annotator_id == bindparam("me"))
    held = exists().where(
        leases.c.task_row == task_row, leases.c.annotator_id == bindparam("me"), leases.c.state == "active"
    )
    return and_(~labelled, ~held)


_NEXT = (
    select(_free.c.id)
    .where(_free.c.round_row == bindparam("round"), _free.c.is_available == true(), _untouched(_free.c.id))
    .order_by(_free.c.priority.desc(), _free.c.id)
    .limit(1)
    .with_for_update(skip_locked=True, of=_free)
)
_HOLD = (
    update(tasks)
    .where(tasks.c.id == _NEXT.scalar_subquery(), tasks.c.is_available == true())
    .values(
        num_held=tasks.c.num_held + 1,
        is_available=tasks.c.num_labels + tasks.c.num_held + 1 < tasks.c.labels_wanted,
    )
    .returning(tasks.c.id)
)
_GOLD = (
    select(_free.c.id)
    .where(_free.c.round_row == bindparam("round"), _free.c.gold.is_not(None), _untouched(_free.c.id))
    .order_by(_free.c.id)
)
_NUM_DRAWN = select(func.count()).select_from(leases).where(leases.c.annotator_id == bindparam("me"))
_COLUMNS = ("token", "task_row", "annotator_id", "swapped", "shown_at", "expires_at", "state")
_INSERT = insert(leases).values({name: bindparam(f"new_{name}") for name in _COLUMNS})


def _shown_from(source: Any) -> Any:
    """Leases with what they show."""
    return (
        select(source.c.id, source.c.token, source.c.swapped, source.c.shown_at, source.c.expires_at, source.c.state)
        .add_columns(tasks.c.public_id, payloads.c.payload, rounds.c.round_id, rounds.c.purpose, rounds.c.rules)
        .add_columns(rounds.c.deadline_at, rounds.c.state.label("round_state"), source.c.task_row)
        .join_from(source, tasks, tasks.c.id == source.c.task_row)
        .join(payloads, payloads.c.task_row == tasks.c.id)
        .join(rounds, rounds.c.id == tasks.c.round_row)
    )


_SHOWN = _shown_from(leases).where(leases.c.token == bindparam("token"), leases.c.annotator_id == bindparam("me"))
_INSERT_SHOWN = _shown_from(_INSERT.returning(*leases.columns).cte("new"))
_SHOWN_LOCKED = _SHOWN.with_for_update(key_share=True, of=leases)
_EXTEND = update(leases).where(leases.c.id == bindparam("lease_row")).values(expires_at=bindparam("to_expires_at"))


def draw_lease(
    connection: Connection, annotator_id: int, *, holding: int, other_than: str | None, secret: bytes
) -> Lease | None:
    """A pair for this annotator: see `Tasks.draw`."""
    now = _now(connection)
    me = {"me": annotator_id, "now": now}
    found = connection.execute(_ANNOTATOR, {"me": annotator_id}).all()
    if not found:
        raise UnknownLease("There is no such annotator.")
    if found[0].is_quarantined:
        raise Quarantined(QUARANTINED)
    mine = connection.execute(_MINE, me).scalars().all()
    others = [token for token in mine if token != other_than]
    if len(mine) >= holding and others:
        return find_lease(connection, annotator_id, others[0])
    for row in sorted((row for row in found if row.id is not None), key=_urgency):
        rules = parse_rules(row.rules)
        task_row = _gold(connection, row.id, annotator_id, rules, secret)
        if task_row is None:
            task_row = connection.execute(_HOLD, {"round": row.id, "me": annotator_id}).scalar()
        if task_row is not None:
            swapped = bool(_drawn(secret, f"side:{task_row}:{annotator_id}") < 0.5)
            return insert_lease(connection, task_row, annotator_id, swapped=swapped, lease_s=rules.lease_s)
    # Nothing new: what they hold and do not look at, for instance because the answer that brought it was lost.
    return find_lease(connection, annotator_id, others[0]) if others else None


def insert_lease(connection: Connection, task_row: int, annotator_id: int, *, swapped: bool, lease_s: float) -> Lease:
    """Hand a task to an annotator. Raises what find_lease does."""
    now, token = _now(connection), secrets.token_urlsafe(24)
    values = (token, task_row, annotator_id, bool(swapped), now, now + lease_s, "active")
    row = {f"new_{name}": value for name, value in zip(_COLUMNS, values, strict=True)}
    if connection.dialect.name == "postgresql":
        return _shown(_held(connection, connection.execute(_INSERT_SHOWN, row).one_or_none()))
    connection.execute(_INSERT, row)
    return find_lease(connection, annotator_id, token)


def find_lease(connection: Connection, annotator_id: int, token: str) -> Lease:
    """A lease that still holds, as shown. Raises UnknownLease, RoundSealed or LeaseExpired."""
    return _shown(_held(connection, connection.execute(_SHOWN, {"token": token, "me": annotator_id}).one_or_none()))


def extend_lease(connection: Connection, annotator_id: int, token: str) -> Lease:
    """Hold a pair for another lease_s from now. Raises what find_lease does, and LeaseExpired after too many."""
    found = connection.execute(_SHOWN_LOCKED, {"token": token, "me": annotator_id}).one_or_none()
    row = _held(connection, found)
    lease_s = parse_rules(row.rules).lease_s
    expires_at = min(_now(connection) + lease_s, row.shown_at + _LONGEST_HOLD * lease_s)
    connection.execute(_EXTEND, {"lease_row": row.id, "to_expires_at": expires_at})
    return find_lease(connection, annotator_id, token)


def release_lease(connection: Connection, annotator_id: int, token: str) -> None:
    """Give a pair back to the queue; one that is not held any more stays as it is. Raises UnknownLease."""
    row = connection.execute(_SHOWN_LOCKED, {"token": token, "me": annotator_id}).one_or_none()
    if row is None:
        raise UnknownLease(UNKNOWN)
    if row.state == "active":
        end_leases(connection, [row], "released")


def _held(connection: Connection, row: Row[Any] | None) -> Row[Any]:
    if row is None:
        raise UnknownLease(UNKNOWN)
    if row.round_state == "sealed":
        raise RoundSealed(SEALED)
    if row.state != "active" or row.expires_at <= _now(connection):
        raise LeaseExpired(EXPIRED)
    return row


def end_leases(connection: Connection, rows: Sequence[Any], state: str) -> None:
    """End active leases (rows with id and task_row) and give their tasks back."""
    connection.execute(_END, {"lease_rows": [row.id for row in rows], "to_state": state})
    freed = [{"task_row": row.task_row} for row in sorted(rows, key=lambda row: row.task_row)]
    connection.execute(_FREE, freed)


def sweep(connection: Connection) -> bool:
    """Give back what was held for too long, a hundred at a time; says whether there may be more."""
    rows = connection.execute(_EXPIRED, {"now": _now(connection)}).all()
    if rows:
        end_leases(connection, rows, "expired")
    return len(rows) == _SWEPT_AT_ONCE


def _shown(row: Row[Any]) -> Lease:
    """A row of _SHOWN as the noun: the answers on the sides where this annotator sees them."""
    payload = parse_payload(row.payload)
    left, right = (payload["b"], payload["a"]) if row.swapped else (payload["a"], payload["b"])
    return Lease(
        token=row.token,
        task_id=row.public_id,
        messages=tuple(payload["messages"]),
        left=left,
        right=right,
        round_id=row.round_id,
        purpose=row.purpose,
        rules=parse_rules(row.rules),
        shown_at=row.shown_at,
        expires_at=row.expires_at,
        deadline_at=row.deadline_at,
    )


def _gold(connection: Connection, round_row: int, annotator_id: int, rules: Rules, secret: bytes) -> int | None:
    """A gold task where it is this annotator's turn for one: every 1 / gold_share-th, at places nobody can foresee."""
    if rules.gold_share <= 0:
        return None
    num_drawn = connection.execute(_NUM_DRAWN, {"me": annotator_id}).scalar_one()
    if _drawn(secret, f"gold:{annotator_id}:{num_drawn}") >= rules.gold_share:
        return None
    rows = connection.execute(_GOLD, {"round": round_row, "me": annotator_id}).scalars().all()
    return rows[int(_drawn(secret, f"which:{annotator_id}:{num_drawn}") * len(rows))] if rows else None


def _drawn(secret: bytes, message: str) -> float:
    """Uniform in [0, 1), the same for the same message, and foreseen by nobody without the secret."""
    return int.from_bytes(hmac.digest(secret, message.encode(), "sha256")[:6], "big") / 2**48


def _urgency(row: Any) -> tuple[float, int]:
    return (float("inf") if row.deadline_at is None else row.deadline_at, row.id)


def _now(connection: Connection) -> float:
    return cast(float, connection.get_execution_options()["clock"]())
