"""Several changes in one statement, for PostgreSQL; SQLite is a file and has no way to save.

At the end of each way to the server a thread has to get the interpreter back, which on a busy page takes longer than
the statement; and what a transaction has locked by then stays locked meanwhile.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Insert, Row, Update

Change = tuple[Insert | Update, Mapping[str, Any]]


def change_together(connection: Connection, changes: Sequence[Change]) -> Sequence[Row[Any]]:
    """Make changes and return the rows of the last one, none where it returns none.

    On PostgreSQL they are one statement, whose parts (WITH) all see the tables as they were: none may build on another.
    The names of their values differ, and are no columns' names: those an UPDATE would take for what it is to set.
    """
    if connection.dialect.name == "postgresql":
        values = {name: value for _statement, given in changes for name, value in given.items()}
        assert len(values) == sum(len(given) for _statement, given in changes), "one name for two values"
        result = connection.execute(_one(tuple(statement for statement, _values in changes)), values)
    else:
        *_, result = [connection.execute(statement, dict(given)) for statement, given in changes]
    return result.all() if result.returns_rows else ()


@lru_cache(maxsize=64)
def _one(statements: tuple[Insert | Update, ...]) -> Insert | Update:
    *first, last = statements
    return last.add_cte(*(statement.cte(f"change_{number}") for number, statement in enumerate(first)))
