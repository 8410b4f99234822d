"""TensorBoard, Weights & Biases, MLflow and OpenTelemetry beside a run."""

import importlib
import sys
import types

import pytest

from orchestrator.config import parse_config
from orchestrator.run import shared_settings
from orchestrator.telemetry.config import TrackingConfig
from orchestrator.telemetry.scalars import ScalarStream
from orchestrator.telemetry.spans import Spans
from orchestrator.telemetry.trackers import check_tracking, trackers_of
from rollout.errors import UsageError
from tests.support.tiny_config import tiny_config
from tests.support.told_events import START, told_events

NAMES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}


def scalars(*rounds, resumed=()):
    stream = ScalarStream()
    events = [event for round_id in rounds for event in told_events(round_id, resumed=round_id in resumed)]
    told = [event for event in events if event["round"] not in resumed or event["kind"] == "round_done"]
    return [found for event in told if (found := stream.of(event))]


def track(sinks):
    for round_id in (0, 1):
        for event in told_events(round_id):
            for sink in sinks:
                sink.take(event)
    for sink in sinks:
        sink.close()


def trackers(tmp_path, **config):
    settings = {"learner.beta": 0.1}
    return trackers_of(TrackingConfig(**config), root=tmp_path / "my", run_id="abc", settings=settings)


def test_steps_are_counted_over_rounds():
    steps = [found for found in scalars(0, 1) if found.axis == "step"]
    assert [found.at for found in steps] == [1, 2, 3, 4]
    assert steps[0].values["learn/reward_accuracy"] == 0.75
    assert "learn/num_steps" not in steps[0].values


def test_after_a_resume_steps_go_on_and_finished_rounds_are_not_told_again():
    found = scalars(0, 1, resumed=(0,))
    assert [each.at for each in found if each.axis == "step"] == [3, 4]
    assert {each.at for each in found if each.axis == "round"} == {1}


def test_rounds_have_their_figures_and_seconds():
    values = {name: value for found in scalars(0) if found.axis == "round" for name, value in found.values.items()}
    assert values["round/win_rate/judge/base/mean"] == 0.7
    assert values["round/rejected_prompts/tie"] == 2
    assert values["seconds/learn"] == 50


def test_nothing_is_tracked_unless_it_is_asked_for(tmp_path):
    assert trackers(tmp_path) == []
    config = parse_config({"policy": {"path": "x"}, "prompts": {"path": "p"}, "judge": {"target": "m:f"}}, origin="x")
    check_tracking(config.tracking)


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "opentelemetry"])
def test_a_tracker_that_is_not_installed_is_refused_in_one_line(name, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    value = "http://localhost:4318" if name == "opentelemetry" else "there"
    with pytest.raises(UsageError, match=rf"tracking\.{name} is set, but .* is not installed; `pip install") as caught:
        check_tracking(TrackingConfig(**{name: value}))
    assert "\n" not in str(caught.value)


def test_tensorboard_reads_back_what_was_written(tmp_path):
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    track(trackers(tmp_path, tensorboard=str(tmp_path / "boards")))
    read = EventAccumulator(str(tmp_path / "boards/my"))
    read.Reload()
    steps = [(event.step, round(event.tensor_proto.float_val[0], 6)) for event in read.Tensors("learn/reward_accuracy")]
    assert steps == [(1, 0.75), (2, 0.75), (3, 0.75), (4, 0.75)]
    assert [event.step for event in read.Tensors("round/win_rate/judge/base/mean")] == [0, 1]


def test_mlflow_goes_on_with_the_same_run(tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="MLflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    from mlflow.tracking import MlflowClient

    uri = (tmp_path / "mlruns").as_uri()
    for _ in range(2):
        track(trackers(tmp_path, mlflow=uri))
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("rondo")
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.params) == ("FINISHED", {"learner.beta": "0.1"})
    assert run.data.metrics["round/rejected_share"] == 0.2
    history = client.get_metric_history(run.info.run_id, "learn/loss")
    assert sorted(metric.step for metric in history) == [1, 1, 2, 2, 3, 3, 4, 4]


class FakeWandb(types.ModuleType):
    """The few calls of wandb that are made, recorded."""

    def __init__(self):
        super().__init__("wandb")
        self.calls = []

    def init(self, **arguments):
        self.calls.append(("init", arguments))
        return self

    def define_metric(self, name, step_metric=None):
        self.calls.append(("define_metric", (name, step_metric)))

    def log(self, values):
        self.calls.append(("log", values))

    def finish(self):
        self.calls.append(("finish", None))


def test_wandb_gets_one_run_with_axes_of_its_own(tmp_path, monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    track(trackers(tmp_path, wandb="project"))
    kind, arguments = fake.calls[0]
    assert (kind, arguments["project"], arguments["id"], arguments["resume"]) == ("init", "project", "my-abc", "allow")
    assert ("define_metric", ("learn/*", "step")) in fake.calls
    logs = [values for kind, values in fake.calls if kind == "log"]
    assert [values["step"] for values in logs if "step" in values] == [1, 2, 3, 4]
    assert fake.calls[-1] == ("finish", None)


def test_a_round_is_one_trace_with_its_stages_and_shards_inside():
    trace = pytest.importorskip("opentelemetry.sdk.trace", reason="the SDK of OpenTelemetry is not installed")
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    kept, provider = InMemorySpanExporter(), trace.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    track([Spans(provider)])
    spans = kept.get_finished_spans()
    rounds = [span for span in spans if span.name == "round"]
    assert [span.attributes["rondo.round"] for span in rounds] == [0, 1]
    inside = [span for span in spans if span.parent and span.parent.span_id == rounds[0].context.span_id]
    assert {span.name for span in inside} == {
        "generate",
        "learn",
        "evaluate",
        "generate shard",
        "judge shard",
        "load weights",
    }
    (learn,) = [span for span in inside if span.name == "learn"]
    assert (learn.start_time, learn.end_time) == (int((START + 40) * 1e9), int((START + 90) * 1e9))
    assert rounds[0].end_time == int((START + 100) * 1e9)


def test_trackers_are_told_no_address(tmp_path):
    secret = "https://me:password@example.org"
    judge = {"kind": "llm", "model": "m", "endpoint": f"{secret}/v1"}
    config = tiny_config(tmp_path, judge=judge, tracking__mlflow=secret)
    told = shared_settings(config)
    assert "password" not in str(told)
    assert told["learner.beta"] == 0.1
    assert told["judge.model"] == "m"
