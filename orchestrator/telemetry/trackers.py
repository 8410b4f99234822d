"""TensorBoard, Weights & Biases and MLflow; each is imported only where the configuration names it."""

import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from orchestrator.telemetry.config import TrackingConfig
from orchestrator.telemetry.scalars import Scalars, ScalarStream
from orchestrator.telemetry.sink import Event, Sink
from rollout.errors import UsageError

_OTLP = "opentelemetry.exporter.otlp.proto.http"
_INSTALL = {
    "tensorboard": ("tensorboard", "tensorboard"),
    "wandb": ("wandb", "wandb"),
    "mlflow": ("mlflow", "mlflow-skinny"),
    "opentelemetry": (_OTLP, "opentelemetry-exporter-otlp-proto-http"),
}


def check_tracking(config: TrackingConfig) -> None:
    """Raise UsageError, in one line, for a tracker that is asked for and not installed."""
    for name, (module, package) in _INSTALL.items():
        if getattr(config, name) is not None and not _is_there(module):
            raise UsageError(
                f"tracking.{name} is set, but {package} is not installed; `pip install {package}`, or leave it out"
            )


def trackers_of(config: TrackingConfig, *, root: Path, run_id: str, settings: Mapping[str, Any]) -> list[Sink]:
    """A sink for each tracker of the configuration; the run goes by the name of its directory."""
    sinks: list[Sink] = []
    if config.tensorboard is not None:
        sinks.append(Tracker(TensorBoard(Path(config.tensorboard) / root.name)))
    if config.wandb is not None:
        sinks.append(Tracker(WeightsAndBiases(config.wandb, root=root, run_id=run_id, settings=settings)))
    if config.mlflow is not None:
        sinks.append(Tracker(MLflow(config.mlflow, name=root.name, run_id=run_id, settings=settings)))
    if config.opentelemetry is not None:
        from orchestrator.telemetry.spans import Spans, otlp_provider

        sinks.append(Spans(otlp_provider(config.opentelemetry, run=root.name)))
    return sinks


class Writer(Protocol):
    """What a tracker's own library is asked for."""

    def write(self, scalars: Scalars) -> None:
        """Keep these numbers."""

    def close(self) -> None:
        """Nothing more comes."""


class Tracker:
    """A sink that writes the scalars of events."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self._stream = writer, ScalarStream()

    def take(self, event: Event) -> None:
        scalars = self._stream.of(event)
        if scalars is not None and scalars.values:
            self._writer.write(scalars)

    def close(self) -> None:
        self._writer.close()


class TensorBoard:
    """Event files by TensorBoard's own writer, which needs neither torch nor TensorFlow."""

    def __init__(self, folder: Path) -> None:
        from tensorboard.summary import Writer as EventWriter

        self._writer = EventWriter(str(folder))

    def write(self, scalars: Scalars) -> None:
        for name, value in scalars.values.items():
            self._writer.add_scalar(name, value, scalars.at)
        if scalars.axis == "round":
            self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """One run there for a run here, gone on with after a resume."""

    def __init__(self, project: str, *, root: Path, run_id: str, settings: Mapping[str, Any]) -> None:
        import wandb

        # run_id is the same for every run of one recipe, so the directory's name belongs to the identity there.
        self._run = wandb.init(
            project=project,
            name=root.name,
            id=f"{root.name}-{run_id}",
            resume="allow",
            dir=str(root),
            config=dict(settings),
        )
        for axis, prefixes in {"step": ("learn",), "round": ("round", "seconds")}.items():
            self._run.define_metric(axis)
            for prefix in prefixes:
                self._run.define_metric(f"{prefix}/*", step_metric=axis)

    def write(self, scalars: Scalars) -> None:
        self._run.log({**scalars.values, scalars.axis: scalars.at})

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """One run there for a run here, in the experiment `rondo`, found again by its tag after a resume."""

    def __init__(self, uri: str, *, name: str, run_id: str, settings: Mapping[str, Any]) -> None:
        from mlflow.entities import Metric
        from mlflow.tracking import MlflowClient

        self._metric, self._client = Metric, MlflowClient(tracking_uri=uri)
        found = self._client.get_experiment_by_name("rondo")
        experiment = found.experiment_id if found else self._client.create_experiment("rondo")
        key = f"{name}-{run_id}"
        earlier = self._client.search_runs([experiment], filter_string=f"tags.rondo_run = '{key}'", max_results=1)
        if earlier:
            self._run_id = earlier[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        made = self._client.create_run(experiment, run_name=name, tags={"rondo_run": key})
        self._run_id = made.info.run_id
        for setting, value in settings.items():
            self._client.log_param(self._run_id, setting, str(value)[:500])

    def write(self, scalars: Scalars) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, scalars.at) for name, value in scalars.values.items()]
        self._client.log_batch(self._run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run_id)


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
