"""Whoever wants to hear what happens in a run: metrics, logs, trackers."""

from collections.abc import Mapping
from typing import Any, Protocol

# A line of metrics.jsonl (kind, round, stage, time, and what the kind has), or one of these, which no file keeps:
# stage_started; progress (num, note); queue (queue, depth); said (level, text); round_done (record, resumed).
Event = Mapping[str, Any]


class Sink(Protocol):
    """Takes events in the order in which they happen, in the driver's main thread, and must not block for long."""

    def take(self, event: Event) -> None:
        """Hear of one event."""

    def close(self) -> None:
        """The run has ended, well or badly."""
