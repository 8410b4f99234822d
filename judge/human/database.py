"""One database, SQLite or PostgreSQL, behind two doors: one to read, one to write."""

import secrets as random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

from sqlalchemy import URL, Connection, QueuePool, Table, make_url, select, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from judge.human import schema
from judge.human.engines import lose_together, make_engine, passing_engine, reading_engine
from judge.human.group_commit import GroupCommit
from rollout.errors import InfraError, UsageError

T = TypeVar("T")
_MIGRATIONS = Path(__file__).parent / "migrations"
_VERSION_TABLE = "rondo_schema"
_UPGRADE_LOCK = 0x526F6E646F  # any number that other programs will hardly choose
_MAX_ATTEMPTS = 8


class TryAgain(Exception):
    """What a transaction had read was changed under it; the next attempt sees the change."""


class Database:
    """The queue's database. Threads may share it; times in it come from `clock`, seconds since the epoch.

    url is sqlite:///path or postgresql://user@host/name. Raises UsageError where it is neither.
    """

    def __init__(self, url: str, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._url = _parse(url)
        self.is_sqlite = self._url.get_backend_name() == "sqlite"
        self.engine = make_engine(self._url).execution_options(clock=clock)
        # FULL: a receipt means that the label is on disk, also when the power fails. What may be lost then, and then
        # only, is written with NORMAL: it takes 1 ms and not 3, and does not stand in the disk's queue.
        self._writing = self.engine.execution_options(begin="BEGIN IMMEDIATE", synchronous="FULL")
        self._passing = passing_engine(self.engine, self._url).execution_options(
            begin="BEGIN IMMEDIATE", synchronous="NORMAL", clock=clock
        )
        self._reading = reading_engine(self.engine, self._url).execution_options(clock=clock)
        if not self.is_sqlite:
            lose_together(self.engine, self._passing, self._reading)
        self._writers = GroupCommit(self._begin) if self.is_sqlite else None
        self._retrying = Retrying(
            retry=retry_if_exception(self._is_passing),
            stop=stop_after_attempt(_MAX_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.02, max=1.0),
            reraise=True,
        )

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection that only reads; on PostgreSQL each statement sees the queue as it is by then.

        Raises InfraError where the database does not answer.
        """
        with self._named(), self._reading.begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that writes, tried once. Raises InfraError where the database does not answer."""
        with self._named(), self._writers.turn() if self._writers else self._writing.begin() as connection:
            yield connection

    def transact(self, deed: Callable[[Connection], T], *, durable: bool = True) -> T:
        """Run `deed` in a write transaction, again where locks, deadlocks or a lost connection came in between.

        durable=False is for what a power failure may take back, such as who looks at which pair; the end of a process
        takes nothing back. Raises InfraError where it did not help to wait; whatever else the deed raises rolls back
        and goes through.
        """
        with self._named():
            return cast(T, self._retrying(self._write_once, deed, durable))

    def fetch(self, look: Callable[[Connection], T]) -> T:
        """Run `look` in a read transaction, again where the connection was lost. Raises InfraError like transact."""
        with self._named():
            return cast(T, self._retrying(self._read_once, look))

    def upgrade(self) -> None:
        """Bring the tables to this version's schema; processes that start together take turns. Raises UsageError."""
        self.check()
        if self.is_sqlite:
            Path(str(self._url.database)).parent.mkdir(parents=True, exist_ok=True)
            with self._named(), self.engine.connect() as connection:
                # Stays in the file. Readers and the writer then do not wait for each other.
                connection.connection.execute("PRAGMA journal_mode=WAL")
        self.transact(_upgrade)

    def check(self) -> None:
        """Raise UsageError, in one line, where the database cannot be used: out of reach, or newer than this Rondo."""
        shown = self._url.render_as_string(hide_password=True)
        if self.is_sqlite and not Path(str(self._url.database)).exists():
            return  # upgrade makes it
        try:
            with self.engine.begin() as connection:
                found = _revisions(connection)
        except SQLAlchemyError as error:
            raise UsageError(
                f"the queue's database {shown} cannot be used: {_first_line(error)}; "
                "expected one that this process can reach and write (judge.queue_url)"
            ) from error
        unknown = found - _known_revisions()
        if unknown:
            raise UsageError(
                f"the queue's database {shown} has schema {', '.join(sorted(unknown))}, which this version of Rondo "
                f"does not know (it knows up to {max(_known_revisions())}); use the newer version"
            )

    def secret(self, name: str) -> bytes:
        """A key of this queue, drawn when it is first asked for and the same ever after."""

        def deed(connection: Connection) -> bytes:
            find = select(schema.secrets.c.value).where(schema.secrets.c.name == name)
            if connection.execute(find).first() is None:
                insert_new(connection, schema.secrets, {"name": name, "value": random.token_hex(32)})
            return bytes.fromhex(connection.execute(find).scalar_one())

        return self.transact(deed)

    def warm(self, look: Callable[[Connection], object]) -> None:
        """Open all connections to a server at once, and run `look` on those that write: what it loads stays there.

        A file is warm already. What `look` changes is undone. Raises InfraError where the database does not answer.
        """
        if self.is_sqlite:
            return
        with self._named(), ExitStack() as stack:
            for engine in (self._writing, self._passing, self._reading):
                pool = cast(QueuePool, engine.pool)
                for connection in [stack.enter_context(engine.connect()) for _ in range(pool.size())]:
                    if engine is not self._reading:
                        look(connection)
                        connection.rollback()

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()
        self._passing.dispose()
        self._reading.dispose()

    def _begin(self, durable: bool) -> AbstractContextManager[Connection]:
        return (self._writing if durable else self._passing).begin()

    def _write_once(self, deed: Callable[[Connection], T], durable: bool) -> T:
        if self._writers is not None:
            return self._writers.run(deed, durable=durable)
        with (self._writing if durable else self._passing).begin() as connection:
            return deed(connection)

    def _read_once(self, look: Callable[[Connection], T]) -> T:
        with self._reading.begin() as connection:
            return look(connection)

    def _is_passing(self, error: BaseException) -> bool:
        if isinstance(error, TryAgain | PoolTimeout):
            return True
        if not isinstance(error, DBAPIError):
            return False
        if self.is_sqlite:
            return "locked" in str(error.orig) or "busy" in str(error.orig)
        # psycopg files under it: no connection, deadlock, failed serialisation, lock timeout, a server that shuts down.
        return isinstance(error, OperationalError) or error.connection_invalidated

    @contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (TryAgain, PoolTimeout, OperationalError) as error:
            raise InfraError(
                f"the queue's database {self._url.render_as_string(hide_password=True)} gave no answer: "
                f"{_first_line(error)}; nothing was changed, try again"
            ) from error


def insert_new(connection: Connection, table: Table, row: dict[str, Any]) -> bool:
    """Insert a row unless one with its keys is there; says whether it was inserted."""
    make = sqlite.insert if connection.dialect.name == "sqlite" else postgresql.insert
    statement = make(table).values(row).on_conflict_do_nothing().returning(*table.primary_key.columns)
    return connection.execute(statement).first() is not None


def _parse(url: str) -> URL:
    expected = "expected sqlite:///path or postgresql://user@host/name (judge.queue_url)"
    try:
        parsed = make_url(url)
        backend = parsed.get_backend_name()
    except (ArgumentError, ValueError) as error:
        raise UsageError(f"got a queue's address that is no URL; {expected}") from error
    if backend == "sqlite" and parsed.database not in {None, "", ":memory:"}:
        return parsed.set(drivername="sqlite")
    if backend == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    raise UsageError(f"got the queue's address {parsed.render_as_string(hide_password=True)}; {expected}")


def _alembic(connection: Connection | None = None) -> Any:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    config.attributes["version_table"] = _VERSION_TABLE
    return config


def _upgrade(connection: Connection) -> None:
    from alembic import command

    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:number)"), {"number": _UPGRADE_LOCK})
    command.upgrade(_alembic(connection), "head")


def _known_revisions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions()}


def _revisions(connection: Connection) -> set[str]:
    from alembic.migration import MigrationContext

    context = MigrationContext.configure(connection, opts={"version_table": _VERSION_TABLE})
    return set(context.get_current_heads())


def _first_line(error: BaseException) -> str:
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0]
