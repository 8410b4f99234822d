"""`logging: json`: one JSON object a line on standard error, with run, round and actor, in place of tables and bars."""

import json
import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TextIO

from orchestrator.telemetry.sink import Event
from orchestrator.types import RoundRecord

_QUIET = frozenset({"progress", "queue"})  # a log is no monitor
_LEVELS = {"failed": "error", "warning": "warning"}


class JsonLog:
    """Writes every event of a run but the small ones."""

    def __init__(self, stream: TextIO, *, run: str) -> None:
        self._stream, self._run = stream, run

    def take(self, event: Event) -> None:
        """One line: time, level, run, round, actor, event, and what the event has."""
        if event["kind"] in _QUIET:
            return
        values = {key: value for key, value in event.items() if key not in ("kind", "round", "time", "level", "record")}
        record = event.get("record")
        if isinstance(record, RoundRecord):
            values |= _figures(record)
        line = {
            "time": datetime.fromtimestamp(event["time"], tz=UTC).isoformat(timespec="milliseconds"),
            "level": _LEVELS.get(event.get("level") or event.get("state") or "", "info"),
            "run": self._run,
            "round": event["round"] if record is None else record.round_id,
            "actor": actor_of_event(event),
            "event": event["kind"],
            **values,
        }
        print(json.dumps(_plain(line), default=str), file=self._stream, flush=True)

    def close(self) -> None:
        """The stream is not ours to close."""


def actor_of_event(event: Event) -> str:
    """Whose doing it was, as Ray's dashboard names it; the driver's own where no actor is behind it."""
    if "engine" in event:
        return f"rollout-{event['engine']}"
    if event["kind"] == "step":
        return "learner"
    return str(event["judge"]) if event["kind"] in ("judged", "shard_judged") else "driver"


def _figures(record: RoundRecord) -> dict[str, Any]:
    scores = record.scores
    return {
        "num_pairs": record.num_pairs,
        "num_rejected": record.all_rejected,
        "policy_in": record.policy_in.version,
        "policy_out": record.policy_out.version,
        "rolled_back": record.rolled_back,
        "metrics": dict(record.update.metrics) if record.update else {},
        "win_rate": asdict(scores.win_rate) if scores and scores.win_rate else None,
        "alarms": list(scores.alarms) if scores else [],
    }


def _plain(value: Any) -> Any:
    """Without NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
