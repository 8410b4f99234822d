"""The table of metrics, what events give, the dashboard and the alerts name the same things."""

import importlib.util
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from orchestrator.telemetry.metrics import FROM_LABELLING, FROM_RAY, METRICS
from orchestrator.telemetry.readings import Readings
from tests.support.deployed import alerts, expressions
from tests.support.told_events import START, told_events

ROOT = Path(__file__).parents[2]
OURS = {metric.exported for metric in METRICS}
KNOWN = OURS | FROM_RAY | FROM_LABELLING
NAME = re.compile(r"\b(?:ray_rondo|rondo|ray_node)_[a-z0-9_]+")
# PromQL without strings and labels in braces, which hold names of runs and tags.
NOT_NAMES = re.compile(r"\{[^}]*\}|\"[^\"]*\"")


def names_in(expression):
    return set(NAME.findall(NOT_NAMES.sub("", expression)))


@pytest.fixture(scope="module")
def readings():
    stream = Readings()
    return [reading for event in told_events() for reading in stream.of(event)]


def value(readings, name, **tags):
    found = [reading.value for reading in readings if reading.metric == f"rondo_{name}" and reading.tags == tags]
    assert found, f"no reading of {name} {tags}"
    return found


def test_names_are_unique_and_well_formed():
    assert len({metric.name for metric in METRICS}) == len(METRICS)
    for metric in METRICS:
        assert re.fullmatch(r"rondo_[a-z0-9_]+", metric.name)
        assert not metric.name.endswith("_total"), "the exporter adds it"
        assert metric.meaning
        assert metric.unit
        assert "run" not in metric.tags


def test_a_round_gives_every_metric_of_the_table_and_no_other_with_its_tags(readings):
    assert {reading.metric for reading in readings} == {metric.name for metric in METRICS}
    tags = {metric.name: set(metric.tags) for metric in METRICS}
    assert [reading for reading in readings if set(reading.tags) != tags[reading.metric]] == []


def test_the_dashboard_shows_every_metric_of_the_table_and_knows_no_other():
    shown = set().union(*map(names_in, expressions()))
    assert shown - KNOWN == set()
    assert OURS - shown == set()


def test_alerts_name_metrics_of_the_table():
    named = {rule["alert"]: names_in(rule["expr"]) for rule in alerts()}
    assert all(named.values())
    assert set().union(*named.values()) - KNOWN == set()


def test_the_labelling_pages_metrics_are_those_that_it_exports():
    source = (ROOT / "judge/human/page/metrics.py").read_text()
    assert [name for name in FROM_LABELLING if f'"{name}"' not in source] == []


def test_rays_own_metrics_are_those_that_it_exports():
    reporter = Path(importlib.util.find_spec("ray").origin).parent / "dashboard/modules/reporter/reporter_agent.py"
    source = reporter.read_text()
    assert [name for name in FROM_RAY if f'"{name.removeprefix("ray_")}"' not in source] == []


def test_labels_in_queries_are_tags_of_their_metric():
    tags = {metric.exported: {"run", *metric.tags} for metric in METRICS}
    for expression in [*expressions(), *(rule["expr"] for rule in alerts())]:
        for name, matchers in re.findall(r"\b(ray_rondo_[a-z0-9_]+)\{([^}]*)\}", expression):
            used = set(re.findall(r"([a-z_]+)\s*(?:=~|!=|!~|=)", matchers))
            assert used <= tags[name], expression


def test_figures_of_a_round_are_those_of_its_events(readings):
    assert value(readings, "generated_tokens", engine="1") == [2000]
    assert value(readings, "engine_tokens_per_second", engine="0") == [50.0]
    assert value(readings, "pairs_per_second") == [pytest.approx(8 / 100)]
    assert value(readings, "rejected_share") == [0.2]
    assert value(readings, "rejected_prompts", reason="tie") == [2]
    assert value(readings, "judge_failed_share", judge="judge") == [0.1]
    assert sum(value(readings, "judge_tokens", judge="judge")) == 1000
    assert value(readings, "win_rate", judge="judge", baseline="base", bound="low") == [0.6]
    assert value(readings, "response_length", quantile="p90") == [60.0]
    assert value(readings, "policy_version") == [1]
    assert value(readings, "progress_timestamp_seconds")[-1] == START + 100


def test_one_stage_at_a_time_is_active(readings):
    active = {}
    for reading in readings:
        if reading.metric == "rondo_stage_active":
            active[reading.tags["stage"]] = reading.value
            assert sum(active.values()) <= 1
    assert active["learn"] == 0


def test_a_stage_stays_active_while_a_round_is_made_ahead_and_done():
    stream, active = Readings(), {}

    def tell(kind, stage, outer=""):
        event = {"kind": kind, "stage": stage, "outer": outer, "round": 1, "seconds": 1.0, "time": START}
        for reading in stream.of(event):
            if reading.metric == "rondo_stage_active":
                active[reading.tags["stage"]] = reading.value

    def ahead():
        tell("stage_started", "generate")
        assert active == {"learn": 1, "generate": 1}
        tell("stage", "generate")

    tell("stage_started", "learn")
    thread = ThreadPoolExecutor(1)
    thread.submit(ahead).result()
    assert active == {"learn": 1, "generate": 0}
    tell("stage", "learn")
    assert active == {"learn": 0, "generate": 0}


def test_a_round_that_was_partly_done_before_has_no_rate():
    stream = Readings()
    late = [event for event in told_events() if event["stage"] != "generate"]
    found = [reading.metric for event in late for reading in stream.of(event)]
    assert "rondo_pairs_per_second" not in found
    assert "rondo_pairs" in found


@pytest.mark.parametrize(("kind", "metric"), [("said", "rondo_warnings"), ("queue", "rondo_queue_depth")])
def test_what_is_said_and_how_long_queues_are_is_no_progress(kind, metric):
    event = next(event for event in told_events() if event["kind"] == kind)
    assert [reading.metric for reading in Readings().of(event)] == [metric]
