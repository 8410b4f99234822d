"""What an annotator can do with the pairs of the queue; each deed is one transaction."""

import statistics
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal

from sqlalchemy import Connection, bindparam, func, select

from judge.human.database import Database, TryAgain
from judge.human.errors import LeaseExpired, RoundSealed, UnknownLease
from judge.human.leases import draw_lease, extend_lease, find_lease, release_lease, sweep
from judge.human.schema import labels, rounds, tasks
from judge.human.submissions import choice_as_shown, submit_label, undo_label
from judge.human.types import Lease, Progress, Receipt, Submission

_DAY_S = 86_400.0
_RECENT = 100
_SWEEP_S = 1.0
_MINE = labels.c.annotator_id == bindparam("me")
_NUM_MINE = select(func.count(), func.count().filter(labels.c.submitted_at >= bindparam("midnight"))).where(_MINE)
_SECONDS = select(labels.c.seconds).where(_MINE).order_by(labels.c.submitted_at.desc()).limit(_RECENT)
_ROUNDS = select(rounds.c.num_tasks, rounds.c.num_resolved, rounds.c.num_given_up, rounds.c.deadline_at).where(
    rounds.c.state.in_(("open", "collecting"))
)
_HISTORY = (
    select(labels.c.id, labels.c.label, labels.c.swapped, labels.c.submitted_at, rounds.c.state)
    .join(tasks, tasks.c.id == labels.c.task_row)
    .join(rounds, rounds.c.id == tasks.c.round_row)
    .where(_MINE)
    .order_by(labels.c.submitted_at.desc(), labels.c.id.desc())
    .limit(bindparam("limit"))
)


@dataclass(frozen=True, kw_only=True)
class OwnLabel:
    """One of an annotator's own labels, by the sides that they saw."""

    label_id: int
    choice: Literal["left", "right", "tie", "both_bad", "skip"]
    at: float
    undoable: bool


class Tasks:
    """The pairs of one queue, as annotators meet them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._secret = b""
        self._swept_at = float("-inf")

    def draw(self, annotator_id: int, *, holding: int = 2, other_than: str | None = None) -> Lease | None:
        """Hand out a pair: a new one, or the oldest that the annotator holds where that is `holding` already.

        A page asks with holding=1 for what it shows (a reload shows the same pair), and with its token as other_than
        for what comes next (the pair fetched ahead, again where it was fetched before). The most telling pairs of the
        most urgent round come first; None where there is none for this annotator. Raises Quarantined.
        """
        secret = self._sides()
        self._sweep()

        def deed(connection: Connection) -> Lease | None:
            try:
                return draw_lease(connection, annotator_id, holding=holding, other_than=other_than, secret=secret)
            except (RoundSealed, LeaseExpired) as error:  # since the statement before; there may be another pair
                raise TryAgain(str(error)) from error

        return self._database.transact(deed, durable=False)

    def rehearse(self) -> None:
        """Do for nobody what is done all day, on every connection: the first ones to ask then wait no longer.

        Changes nothing. Raises InfraError where the database does not answer.
        """

        def look(connection: Connection) -> None:
            with suppress(UnknownLease):
                draw_lease(connection, 0, holding=2, other_than=None, secret=b"")
            with suppress(UnknownLease):
                submit_label(connection, 0, "", Submission(choice="tie"))

        self._database.warm(look)

    def current(self, annotator_id: int, token: str) -> Lease:
        """A lease that holds. Raises UnknownLease, LeaseExpired, RoundSealed."""
        return self._database.fetch(lambda connection: find_lease(connection, annotator_id, token))

    def heartbeat(self, annotator_id: int, token: str) -> Lease:
        """Hold a pair for another lease_s, twelve times at most. Raises UnknownLease, LeaseExpired, RoundSealed."""
        return self._database.transact(lambda connection: extend_lease(connection, annotator_id, token), durable=False)

    def release(self, annotator_id: int, token: str) -> None:
        """Give a pair back; again changes nothing. Raises UnknownLease."""
        self._database.transact(lambda connection: release_lease(connection, annotator_id, token), durable=False)

    def submit(self, annotator_id: int, token: str, submission: Submission) -> Receipt:
        """Take the label of a lease; the same again gets the same receipt.

        It settles its pair, and its round where that was the last one needed. Raises UnknownLease, Conflict (the lease
        has another label), LeaseExpired, TooFast, Quarantined, Invalid, and RoundSealed once the label is stored as
        late.
        """
        answer = self._database.transact(lambda connection: submit_label(connection, annotator_id, token, submission))
        if isinstance(answer, RoundSealed):
            raise answer
        return answer

    def undo(self, annotator_id: int, label_id: int) -> Lease:
        """Take an own label back and hold its pair again, the sides as before; former is what was handed in.

        Raises UnknownLease, RoundSealed, Quarantined.
        """
        lease, former = self._database.transact(lambda connection: undo_label(connection, annotator_id, label_id))
        return replace(lease, former=former)

    def history(self, annotator_id: int, limit: int) -> list[OwnLabel]:
        """The annotator's own last labels, newest first."""
        me = {"me": annotator_id, "limit": limit}
        rows = self._database.fetch(lambda connection: connection.execute(_HISTORY, me).all())
        return [
            OwnLabel(
                label_id=row.id,
                choice=choice_as_shown(row.label, row.swapped),
                at=row.submitted_at,
                undoable=row.state != "sealed",
            )
            for row in rows
        ]

    def progress(self, annotator_id: int) -> Progress:
        """What the annotator has done (today is a day of UTC), and how far the open rounds are, gold left out.

        median_seconds is that of their last 100 labels; deadline_at is the next one.
        """
        now = self._database.clock()
        me = {"me": annotator_id, "midnight": now - now % _DAY_S}
        with self._database.read() as connection:
            num_mine, num_today = connection.execute(_NUM_MINE, me).one()
            seconds = connection.execute(_SECONDS, me).scalars().all()
            open_rounds = connection.execute(_ROUNDS).all()
        deadlines = [row.deadline_at for row in open_rounds if row.deadline_at is not None]
        num_tasks = sum(row.num_tasks for row in open_rounds)
        num_resolved = sum(row.num_resolved for row in open_rounds)
        return Progress(
            num_mine=num_mine,
            num_mine_today=num_today,
            median_seconds=statistics.median(seconds) if seconds else None,
            num_waiting=num_tasks - num_resolved - sum(row.num_given_up for row in open_rounds),
            num_resolved=num_resolved,
            num_tasks=num_tasks,
            deadline_at=min(deadlines, default=None),
        )

    def _sweep(self) -> None:
        """Every draw comes by here, and one a second sees to what others held for too long.

        In a transaction of its own: it locks pairs of many people, and the draw a person.
        """
        now = self._database.clock()
        if 0 <= now - self._swept_at < _SWEEP_S:
            return
        self._swept_at = now
        if self._database.transact(sweep, durable=False):
            self._swept_at = float("-inf")

    def _sides(self) -> bytes:
        if not self._secret:
            self._secret = self._database.secret("sides")
        return self._secret
