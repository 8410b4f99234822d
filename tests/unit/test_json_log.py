"""`logging: json`."""

import io
import json
import math

import pytest

from orchestrator.run import make_observer
from orchestrator.rundir import open_run
from orchestrator.telemetry.json_log import JsonLog
from tests.support.tiny_config import tiny_config
from tests.support.told_events import told_events


@pytest.fixture
def logged():
    stream = io.StringIO()
    log = JsonLog(stream, run="my")
    for event in told_events():
        log.take(event)
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_every_line_is_an_object_with_time_level_run_round_and_actor(logged):
    assert all({"time", "level", "run", "round", "actor", "event"} <= line.keys() for line in logged)
    assert {line["run"] for line in logged} == {"my"}
    assert {line["round"] for line in logged} == {0}


def test_actors_are_named_as_in_rays_dashboard(logged):
    actors = {(line["event"], line["actor"]) for line in logged}
    assert {("generated", "rollout-1"), ("step", "learner"), ("judged", "judge"), ("stage", "driver")} <= actors


def test_small_events_are_left_out_and_warnings_are_marked(logged):
    assert not {"progress", "queue"} & {line["event"] for line in logged}
    assert [line["text"] for line in logged if line["level"] == "warning"] == ["a shard is judged again"]


def test_a_finished_round_has_its_figures(logged):
    (done,) = [line for line in logged if line["event"] == "round_done"]
    assert (done["num_pairs"], done["win_rate"]["mean"], done["policy_out"]) == (8, 0.7, 1)


def test_a_failed_attempt_is_an_error_and_nan_is_null():
    stream = io.StringIO()
    event = {"kind": "attempt", "state": "failed", "round": None, "stage": "", "time": 0.0, "loss": math.nan}
    JsonLog(stream, run="my").take(event)
    line = json.loads(stream.getvalue())
    assert (line["level"], line["loss"]) == ("error", None)


def test_the_setting_takes_the_place_of_what_people_read(tmp_path, capsys):
    observer = make_observer(open_run(tmp_path / "run", tiny_config(tmp_path, logging="json")), None)
    observer.say("hello")
    with observer.stage(0, "generate"):
        pass
    shown = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["event"] for line in shown] == ["said", "stage_started", "stage"]
    assert shown[0]["run"] == "run"
