"""The metrics of a run through Ray, which its dashboard agent hands to Prometheus."""

import os
from typing import Any

from ray.util.metrics import Counter, Gauge

from orchestrator.config import ClusterConfig
from orchestrator.telemetry.metrics import METRICS
from orchestrator.telemetry.readings import Readings
from orchestrator.telemetry.sink import Event


def wants_metrics(config: ClusterConfig) -> bool:
    """Whether anybody would see them: on a cluster that was joined, with a dashboard, or where it is asked for."""
    return config.dashboard or bool(os.environ.get("RAY_ADDRESS")) if config.metrics is None else config.metrics


class RayMetrics:
    """A sink that keeps Ray's metrics; each is made when it first has a value. run: the tag of all of them."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._readings = Readings()
        self._table = {metric.name: metric for metric in METRICS}
        self._made: dict[str, Any] = {}

    def take(self, event: Event) -> None:
        for reading in self._readings.of(event):
            made = self._made.get(reading.metric) or self._make(reading.metric)
            if isinstance(made, Gauge):
                made.set(reading.value, tags=dict(reading.tags))
            elif reading.value > 0:
                made.inc(reading.value, tags=dict(reading.tags))

    def close(self) -> None:
        """Nothing to do: Ray sends what there is every few seconds, and drops a process's gauges when it has gone."""

    def _make(self, name: str) -> Any:
        metric = self._table[name]
        kind = Gauge if metric.kind == "gauge" else Counter
        made = kind(name, description=f"{metric.meaning} ({metric.unit})", tag_keys=("run", *metric.tags))
        self._made[name] = made.set_default_tags({"run": self._run})
        return made
