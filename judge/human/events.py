"""The audit log: what was done in the queue, by whom and when. A trigger refuses every change to it."""

from typing import Any

from sqlalchemy import Connection, bindparam, insert

from judge.human.schema import events
from judge.human.together import Change, change_together
from judge.human.wire import to_text

_COLUMNS = ("at", "actor", "action", "round_row", "task_row", "detail")
_INSERT = insert(events).values({name: bindparam(f"event_{name}") for name in _COLUMNS})


def event(
    connection: Connection,
    *,
    actor: str,
    action: str,
    round_row: int | None = None,
    task_row: int | None = None,
    **detail: Any,
) -> Change:
    """One event to append, now, in the transaction of the deed, so that both stand or fall together."""
    at = connection.get_execution_options()["clock"]()
    row = (at, actor, action, round_row, task_row, to_text(detail))
    return _INSERT, {f"event_{name}": value for name, value in zip(_COLUMNS, row, strict=True)}


def write_event(connection: Connection, **values: Any) -> None:
    """Append one event; takes what `event` takes."""
    change_together(connection, [event(connection, **values)])
