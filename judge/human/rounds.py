"""Rounds in the queue: opened, filled chunk by chunk, sealed once, and read."""

import secrets
from collections.abc import Sequence
from functools import partial
from typing import Any

from sqlalchemy import Connection, Row, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError as Taken

from judge.human.database import Database, insert_new
from judge.human.errors import Invalid, RoundSealed
from judge.human.events import write_event
from judge.human.resolution import ending, wanted_labels
from judge.human.schema import chunks, payloads, rounds, tasks
from judge.human.sealing import change_counts, read_results, results_sha256, write_seal
from judge.human.types import NewTask, RoundKey, RoundView, Rules, TaskResult
from judge.human.wire import digest, parse_rules, payload_text, rules_text
from rollout.errors import IntegrityError, UsageError


class Rounds:
    """The rounds of one queue."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, key: RoundKey, run_name: str, rules: Rules, num_chunks: int) -> RoundView:
        """Open a round of num_chunks chunks; one that is open already keeps the rules of its first opening.

        Raises IntegrityError where it was opened with another number of chunks.
        """

        def deed(connection: Connection) -> RoundView:
            now = self._database.clock()
            row = {"run_id": key.run_id, "round_id": key.round_id, "purpose": key.purpose, "run_name": run_name}
            counts = {"num_tasks": 0, "num_resolved": 0, "num_given_up": 0, "num_labels": 0, "num_late": 0}
            marks = {"state": "open", "rules": rules_text(rules), "num_chunks": num_chunks, "opened_at": now}
            row |= counts | marks | {"sealed_by": "", "sha256": ""}
            is_new = insert_new(connection, rounds, row)
            found = connection.execute(_where(key)).one()
            if found.num_chunks != num_chunks:
                raise IntegrityError(
                    f"round {key.round_id} ({key.purpose}) of run {key.run_id} was opened with {found.num_chunks} "
                    f"chunks, and now has {num_chunks}; expected the same groups as before"
                )
            if is_new:
                write_event(connection, actor="run", action="open", round_row=found.id, run_name=run_name)
                if num_chunks == 0:
                    _fill(connection, found.id, now, rules)
            return _view(connection.execute(_where(key)).one())

        return self._database.transact(deed)

    def submit_chunk(self, row_id: int, chunk_id: int, new: Sequence[NewTask]) -> None:
        """Put a chunk's pairs into the queue, gold among them; the same chunk again changes nothing.

        Raises IntegrityError where the chunk is known with other pairs, or a pair is in another chunk already.
        """
        keys = [task.key for task in new]
        if len(set(keys)) < len(keys):
            raise IntegrityError(f"chunk {chunk_id} holds a pair twice; expected keys of their own")
        self._database.transact(lambda connection: self._submit_chunk(connection, row_id, chunk_id, new))

    def _submit_chunk(self, connection: Connection, row_id: int, chunk_id: int, new: Sequence[NewTask]) -> None:
        row = _lock(connection, row_id)
        num_real = sum(task.gold is None for task in new)
        sha256 = digest(sorted(task.key for task in new))
        is_mine = (chunks.c.round_row == row_id) & (chunks.c.chunk_id == chunk_id)
        known = connection.execute(select(chunks.c.keys_sha256).where(is_mine)).scalar()
        if known == sha256:
            return
        if known is not None or row.state != "open":
            raise IntegrityError(
                f"chunk {chunk_id} of round {row_id} is {'known with other pairs' if known else 'one too many'}; "
                "expected the pairs of the first time"
            )
        rules = parse_rules(row.rules)
        mark = {"round_row": row_id, "chunk_id": chunk_id, "num_tasks": num_real, "keys_sha256": sha256}
        connection.execute(insert(chunks), mark)
        if new:
            try:
                _insert_tasks(connection, row_id, new, rules)
            except Taken as error:
                raise IntegrityError(
                    f"chunk {chunk_id} of round {row_id} holds a pair that an earlier chunk held; expected new ones"
                ) from error
        connection.execute(update(rounds).where(rounds.c.id == row_id), {"num_tasks": row.num_tasks + num_real})
        write_event(connection, actor="run", action="chunk", round_row=row_id, chunk_id=chunk_id, num_tasks=num_real)
        count = select(func.count()).select_from(chunks).where(chunks.c.round_row == row_id)
        if connection.execute(count).scalar_one() == row.num_chunks:
            _fill(connection, row_id, self._database.clock(), rules)

    def view(self, row_id: int) -> RoundView:
        """How far a round is. Raises UsageError for an unknown one."""
        return self._database.fetch(lambda connection: _view(_one(connection, row_id)))

    def find(self, key: RoundKey) -> RoundView | None:
        """The round of this name, if it was opened."""
        row = self._database.fetch(lambda connection: connection.execute(_where(key)).one_or_none())
        return None if row is None else _view(row)

    def all(self) -> list[RoundView]:
        """Every round, in the order of their opening."""
        query = select(rounds).order_by(rounds.c.id)
        return [_view(row) for row in self._database.fetch(lambda connection: connection.execute(query).all())]

    def seal_due(self) -> list[RoundView]:
        """Seal the rounds whose deadline has passed or that nothing holds open any more; those that it sealed."""
        query = select(rounds).where(rounds.c.state == "collecting").order_by(rounds.c.id)
        found = self._database.fetch(lambda connection: connection.execute(query).all())
        due = [row.id for row in found if self._cause(row)]

        sealed = [self._database.transact(partial(self._seal_if_due, row_id=row_id)) for row_id in due]
        return [view for view in sealed if view is not None]

    def _seal_if_due(self, connection: Connection, row_id: int) -> RoundView | None:
        row = _lock(connection, row_id)
        cause = self._cause(row)  # an extension or a seal may have come in between
        if row.state != "collecting" or not cause:
            return None
        write_seal(connection, row_id, cause)
        return _view(_one(connection, row_id))

    def _cause(self, row: Row[Any]) -> str:
        counts = {name: getattr(row, name) for name in ("num_tasks", "num_resolved", "num_given_up")}
        by = ending(**counts, seal_share=parse_rules(row.rules).seal_share)
        return by or ("deadline" if row.deadline_at is not None and row.deadline_at <= self._database.clock() else "")

    def seal(self, row_id: int, by: str) -> RoundView:
        """Seal a round now; a sealed one stays as it is. Raises Invalid while it is still being filled."""

        def deed(connection: Connection) -> RoundView:
            row = _lock(connection, row_id)
            if row.state == "open":
                raise Invalid("This round is still being filled by its run; it can be sealed once it is full.")
            if row.state == "collecting":
                write_seal(connection, row_id, by)
            return _view(_one(connection, row_id))

        return self._database.transact(deed)

    def extend(self, row_id: int, deadline_at: float, by: str) -> RoundView:
        """Move the deadline of a round. Raises RoundSealed, or Invalid where it is still filled or the time is past."""

        def deed(connection: Connection) -> RoundView:
            row = _lock(connection, row_id)
            if row.state == "sealed":
                raise RoundSealed("This round is sealed; its deadline can no longer be moved.")
            if row.state == "open" or not self._database.clock() < deadline_at < float("inf"):
                raise Invalid("The new deadline of a round must lie in the future, and the round must be full.")
            connection.execute(update(rounds).where(rounds.c.id == row_id), {"deadline_at": deadline_at})
            write_event(connection, actor=by, action="extend", round_row=row_id, before=row.deadline_at, to=deadline_at)
            return _view(_one(connection, row_id))

        return self._database.transact(deed)

    def results(self, row_id: int) -> list[TaskResult]:
        """What people said on each pair of a sealed round, ordered by key, gold left out. Raises UsageError before."""

        def look(connection: Connection) -> list[TaskResult]:
            if _one(connection, row_id).state != "sealed":
                raise UsageError(f"round {row_id} of the queue is not sealed; its results stand only then")
            return read_results(connection, row_id)

        return self._database.fetch(look)

    def verify(self, row_id: int) -> None:
        """Raise IntegrityError unless a sealed round still holds what it was sealed with."""
        found = results_sha256(self.results(row_id))
        expected = self.view(row_id).sha256
        if found != expected:
            raise IntegrityError(
                f"round {row_id} of the queue was sealed as {expected} and now is {found}; "
                "somebody wrote into the database: restore a copy of it"
            )

    def untold(self) -> list[RoundView]:
        """Sealed rounds whose webhook has not answered yet."""
        query = select(rounds).where(rounds.c.state == "sealed", rounds.c.told_at.is_(None)).order_by(rounds.c.id)
        views = [_view(row) for row in self._database.fetch(lambda connection: connection.execute(query).all())]
        return [view for view in views if view.rules.webhook]

    def told(self, row_id: int) -> None:
        """Note that the webhook of a round answered."""
        told = update(rounds).where(rounds.c.id == row_id, rounds.c.told_at.is_(None))
        self._database.transact(lambda connection: connection.execute(told, {"told_at": self._database.clock()}))


def _where(key: RoundKey) -> Any:
    same = (rounds.c.run_id == key.run_id) & (rounds.c.round_id == key.round_id) & (rounds.c.purpose == key.purpose)
    return select(rounds).where(same)


def _one(connection: Connection, row_id: int) -> Row[Any]:
    row = connection.execute(select(rounds).where(rounds.c.id == row_id)).one_or_none()
    if row is None:
        raise UsageError(f"the queue has no round {row_id}; `rondo label status` lists them")
    return row


def _lock(connection: Connection, row_id: int) -> Row[Any]:
    held = select(rounds).where(rounds.c.id == row_id).with_for_update(key_share=True)
    return connection.execute(held).one_or_none() or _one(connection, row_id)


def _view(row: Row[Any]) -> RoundView:
    names = ("run_name", "state", "num_tasks", "num_resolved", "num_given_up", "num_labels", "num_late")
    times = ("opened_at", "deadline_at", "sealed_at", "sealed_by", "sha256")
    return RoundView(
        row_id=row.id,
        key=RoundKey(run_id=row.run_id, round_id=row.round_id, purpose=row.purpose),
        rules=parse_rules(row.rules),
        **{name: getattr(row, name) for name in names + times},
    )


def _insert_tasks(connection: Connection, row_id: int, new: Sequence[NewTask], rules: Rules) -> None:
    rows = [
        {
            "public_id": secrets.token_hex(16),
            "round_row": row_id,
            "key": task.key,
            "prompt_id": task.prompt_id,
            "a": task.a,
            "b": task.b,
            "priority": task.priority,
            "gold": task.gold,
            "origin": task.origin,
            "labels_wanted": wanted_labels(task.key, rules),
            "is_available": task.gold is None,
        }
        for task in new
    ]
    made = connection.execute(insert(tasks).returning(tasks.c.key, tasks.c.id), rows)
    row_of = {row.key: row.id for row in made}
    shown = [{"task_row": row_of[task.key], "payload": payload_text(task)} for task in new]
    connection.execute(insert(payloads), shown)


def _fill(connection: Connection, row_id: int, now: float, rules: Rules) -> None:
    """All chunks are here: the deadline runs from now, and what is settled already may end the round at once."""
    connection.execute(
        update(rounds).where(rounds.c.id == row_id), {"state": "collecting", "deadline_at": now + rules.deadline_s}
    )
    if connection.dialect.name == "postgresql":
        connection.execute(text("ANALYZE tasks"))  # its planner knows nothing yet of rows that have just come
    change_counts(connection, row_id)
