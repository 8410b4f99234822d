"""The audit log: what was done in the queue, by whom and when. A trigger refuses every change to it."""

from typing import Any

from sqlalchemy import Connection, insert

from judge.human.schema import events
from judge.human.wire import to_text

_INSERT = insert(events)


def write_event(
    connection: Connection,
    *,
    actor: str,
    action: str,
    round_row: int | None = None,
    task_row: int | None = None,
    **detail: Any,
) -> None:
    """Append one event within the caller's transaction, so that the deed and its record stand or fall together."""
    at = connection.get_execution_options()["clock"]()
    row = {"at": at, "actor": actor, "action": action, "round_row": round_row, "task_row": task_row}
    connection.execute(_INSERT, {**row, "detail": to_text(detail)})
