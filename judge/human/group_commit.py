"""One writer at a time, first come first served, and one commit for all who wait."""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, TypeVar

from sqlalchemy import Connection

from rollout.errors import InfraError, RondoError

T = TypeVar("T")
Deed = Callable[[Connection], Any]
_TIMEOUT_S = 60.0
_MOST_AT_ONCE = 32


class _Writer:
    def __init__(self, deed: Deed | None, *, durable: bool = True) -> None:
        self.durable = durable
        self.deed = deed  # None: a transaction of somebody who writes with their own hands
        self.woken = threading.Event()
        self.leads = False
        self.is_taken = False
        self.value: Any = None
        self.error: Exception | None = None
        self.is_done = False


class GroupCommit:
    """Writers of one process on SQLite.

    SQLite has one writer at a time and waits by sleeping, which lets late comers in first; and a commit that reaches
    the disk costs more than all else that a label does. So writers queue here, and the first in the queue runs those
    behind it in its own transaction, each within a savepoint: they share one commit, and nobody is told of success
    before it. `begin` opens a write transaction, whose commit reaches the disk where it is told so.
    """

    def __init__(self, begin: Callable[[bool], AbstractContextManager[Connection]]) -> None:
        self._begin = begin
        self._mutex = threading.Lock()
        self._waiting: deque[_Writer] = deque()
        self._is_led = False

    def run(self, deed: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Run a deed in a transaction of its own or with others. What it raises undoes it alone, and goes through.

        Raises InfraError where its turn does not come within 60 s.
        """
        writer = self._queue(_Writer(deed, durable=durable))
        if writer.leads:
            batch = self._take()
            try:
                value: T = self._run_batch(batch)
                return value
            finally:
                self._leave()
                for other in batch[1:]:
                    other.woken.set()
        if not writer.is_done:  # the transaction failed, not the deed: it is tried on its own
            with self.turn() as connection:
                return deed(connection)
        if writer.error is not None:
            raise writer.error
        shared: T = writer.value
        return shared

    @contextmanager
    def turn(self) -> Iterator[Connection]:
        """A transaction of one's own, when its turn comes. Raises InfraError where that takes 60 s."""
        self._queue(_Writer(None))
        with self._mutex:
            self._waiting.popleft()
        try:
            with self._begin(True) as connection:
                yield connection
        finally:
            self._leave()

    def _queue(self, writer: _Writer) -> _Writer:
        with self._mutex:
            self._waiting.append(writer)
            if not self._is_led:
                self._is_led = writer.leads = True
                return writer
        while not writer.woken.wait(_TIMEOUT_S):
            with self._mutex:
                if not (writer.is_taken or writer.leads):
                    self._waiting.remove(writer)
                    raise InfraError(f"waited {_TIMEOUT_S:.0f} s behind the queue's other writers; try again")
        return writer

    def _take(self) -> list[_Writer]:
        with self._mutex:
            batch = [self._waiting.popleft()]
            while self._waiting and self._waiting[0].deed is not None and len(batch) < _MOST_AT_ONCE:
                batch.append(self._waiting.popleft())
            for writer in batch:
                writer.is_taken = True
        return batch

    def _leave(self) -> None:
        with self._mutex:
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].woken.set()
            else:
                self._is_led = False

    def _run_batch(self, batch: list[_Writer]) -> Any:
        """Run a batch and return what its first writer gets; the others find theirs in themselves."""
        first = batch[0]
        assert first.deed is not None
        if len(batch) > 1:
            # Where the transaction fails nothing of it stands, and each tries again on its own.
            with suppress(Exception):
                with self._begin(any(writer.durable for writer in batch)) as connection:
                    for writer in batch:
                        _run_one(connection, writer)
                for writer in batch:
                    writer.is_done = True
            if first.is_done:
                if first.error is not None:
                    raise first.error
                return first.value
        with self._begin(first.durable) as connection:
            return first.deed(connection)


def _run_one(connection: Connection, writer: _Writer) -> None:
    assert writer.deed is not None
    connection.exec_driver_sql("SAVEPOINT deed")
    try:
        writer.value = writer.deed(connection)
    except RondoError as error:
        # A refusal. Any other error may have ended the whole transaction, and ends the batch.
        writer.error = error
        connection.exec_driver_sql("ROLLBACK TO deed")
    connection.exec_driver_sql("RELEASE deed")
