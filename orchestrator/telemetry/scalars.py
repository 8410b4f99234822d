"""From events of a run to the numbers that experiment trackers draw: over optimizer steps, and over rounds."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from orchestrator.telemetry.readings import Readings
from orchestrator.telemetry.sink import Event

_NO_FIGURES = frozenset({"kind", "round", "stage", "time", "step", "num_steps"})


@dataclass(frozen=True, kw_only=True)
class Scalars:
    """Numbers by name at one place of an axis: the optimizer step of the whole run, from 1, or the round, from 0."""

    axis: Literal["step", "round"]
    at: int
    values: Mapping[str, float]


class ScalarStream:
    """Counts optimizer steps over all rounds; rounds that were finished before say how many they had."""

    def __init__(self) -> None:
        self._steps_before = 0
        self._readings = Readings()

    def of(self, event: Event) -> Scalars | None:
        """The scalars of one event, or None where it has none, or they were told in an earlier life of the run."""
        readings = self._readings.of(event)
        if event["kind"] == "step" and event["stage"] == "learn":
            values = {f"learn/{key}": value for key, value in event.items() if key not in _NO_FIGURES}
            return _finite("step", self._steps_before + event["step"], values)
        if event["kind"] == "stage" and event["round"] is not None:
            return _finite("round", event["round"], {f"seconds/{event['stage'].replace(' ', '_')}": event["seconds"]})
        if event["kind"] != "round_done":
            return None
        record = event["record"]
        self._steps_before += record.update.num_steps if record.update else 0
        if event["resumed"]:
            return None
        named = {}
        for reading in readings:
            if reading.metric != "rondo_progress_timestamp_seconds":
                name = "/".join([reading.metric.removeprefix("rondo_"), *reading.tags.values()])
                named[f"round/{name}"] = reading.value
        return _finite("round", record.round_id, named)


def _finite(axis: Literal["step", "round"], at: int, values: Mapping[str, Any]) -> Scalars:
    kept = {
        name: float(value) for name, value in values.items() if isinstance(value, int | float) and math.isfinite(value)
    }
    return Scalars(axis=axis, at=at, values=kept)
