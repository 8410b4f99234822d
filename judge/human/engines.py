"""Connections to SQLite and PostgreSQL as the queue wants them."""

from typing import Any

from sqlalchemy import URL, Connection, Engine, ExceptionContext, create_engine, event


def make_engine(url: URL, **options: Any) -> Engine:
    """The engine of an address; a label that is committed on it is on disk. options are create_engine's."""
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, pool_size=8, max_overflow=40, connect_args={"timeout": 30.0})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin)
        return engine
    # Who finds none free waits for one, without the interpreter: a label's last statement locks its round until the
    # commit is sent, which takes the longer the more threads want the interpreter meanwhile.
    engine = create_engine(url, pool_size=4, max_overflow=0, connect_args={"connect_timeout": 10}, **options)
    event.listen(engine, "connect", _prepare_postgresql)
    return engine


def reading_engine(engine: Engine, url: URL) -> Engine:
    """An engine to read with: on PostgreSQL with connections of its own, for which nobody waits who writes.

    One SELECT is a transaction anyway; a BEGIN and an end around it would be two more ways to the server.
    """
    if url.get_backend_name() == "sqlite":
        return engine
    return make_engine(url, isolation_level="AUTOCOMMIT", skip_autocommit_rollback=True)


def passing_engine(engine: Engine, url: URL) -> Engine:
    """An engine for what a power failure may take back: on PostgreSQL with connections whose commits wait for no disk.

    A later durable commit brings those before it to the disk too, so a label never stands there without its lease.
    """
    if url.get_backend_name() == "sqlite":
        return engine
    passing = make_engine(url)
    event.listen(passing, "connect", _hurry_postgresql)
    return passing


def lose_together(*engines: Engine) -> None:
    """Whatever takes a connection of one engine away has most likely taken them all: the others open theirs anew."""

    def lost(context: ExceptionContext) -> None:
        if context.is_disconnect:
            for engine in engines:
                if engine.pool is not (context.engine and context.engine.pool):  # the pool of its own sees to itself
                    engine.dispose()

    for engine in engines:
        event.listen(engine, "handle_error", lost)


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions begin where _begin says, not where the driver guesses
    for pragma in ("foreign_keys=ON", "synchronous=FULL", "temp_store=MEMORY", "cache_size=-32768"):
        connection.execute(f"PRAGMA {pragma}")


def _prepare_postgresql(connection: Any, _record: Any) -> None:
    # Every wait has a deadline, and a client that hangs in mid-transaction gives its locks back.
    connection.execute("SET lock_timeout = '30s'")
    connection.execute("SET idle_in_transaction_session_timeout = '120s'")
    connection.commit()


def _hurry_postgresql(connection: Any, _record: Any) -> None:
    connection.execute("SET synchronous_commit = off")
    connection.commit()


def _begin(connection: Connection) -> None:
    options = connection.get_execution_options()
    if "synchronous" in options:
        connection.exec_driver_sql(f"PRAGMA synchronous={options['synchronous']}")
    connection.exec_driver_sql(options.get("begin", "BEGIN"))
