"""A round's timeline in the Chrome trace format."""

import json

import pytest

from orchestrator.telemetry.timeline import chrome_trace, timeline_page
from rollout.errors import UsageError
from tests.support.told_events import told_events

KEPT = ("stage", "generated", "shard_judged", "judged", "step", "sync")


def told_lines(*rounds):
    return [event for round_id in rounds for event in told_events(round_id) if event["kind"] in KEPT]


@pytest.fixture
def trace():
    return chrome_trace(told_lines(0, 1), 1)


def named(trace, phase, name):
    return [event for event in trace["traceEvents"] if event["ph"] == phase and event["name"] == name]


def test_it_is_json_in_the_object_form_with_times_from_the_rounds_first_event(trace):
    events = json.loads(json.dumps(trace))["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "b", "e"}
    timed = [event for event in events if event["ph"] != "M"]
    assert min(event["ts"] for event in timed) == 0
    assert all(isinstance(event["ts"], int) and isinstance(event["tid"], int) for event in timed)
    assert all(event["dur"] >= 0 for event in events if event["ph"] == "X")


def test_every_part_has_a_track_of_its_own(trace):
    tracks = {event["tid"]: event["args"]["name"] for event in named(trace, "M", "thread_name")}
    assert set(tracks.values()) == {"driver", "engine 0", "engine 1", "judge", "learner"}
    assert tracks[0] == "driver"
    used = {event["tid"] for event in trace["traceEvents"] if event["ph"] != "M"}
    assert used == tracks.keys()


def test_stages_and_shards_lie_where_they_were(trace):
    (learn,) = [event for event in named(trace, "X", "learn") if event["cat"] == "driver"]
    assert (learn["ts"], learn["dur"]) == (40_000_000, 50_000_000)
    (began,), (ended,) = named(trace, "b", "generate shard 1"), named(trace, "e", "generate shard 1")
    assert (began["ts"], ended["ts"]) == (10_000_000, 40_000_000)
    assert (began["id"], began["cat"]) == (ended["id"], ended["cat"])
    (judging,) = named(trace, "b", "judge shard 0")
    assert judging["ts"] == 20_000_000
    (step,) = named(trace, "X", "step 2")
    assert (step["ts"], step["dur"]) == (60_000_000, 30_000_000)


def test_every_span_that_begins_ends(trace):
    begun = {(event["cat"], event["id"]) for event in trace["traceEvents"] if event["ph"] == "b"}
    ended = {(event["cat"], event["id"]) for event in trace["traceEvents"] if event["ph"] == "e"}
    assert begun == ended
    assert begun


def test_what_idled_is_told(trace):
    busy = trace["otherData"]["busy_share"]
    assert trace["otherData"]["seconds"] == pytest.approx(100)
    assert busy == {"engine 0": 0.205, "engine 1": 0.3, "judge": 0.1, "learner": 0.5}
    page = timeline_page({"file": "x.json", "num_events": 9, **trace["otherData"]})
    assert "engine 1: busy 30%, idle 70%" in page


def test_overlap_within_a_part_counts_once():
    twice = told_lines(0)
    twice += [{**line, "chunk_id": 7} for line in twice if line["kind"] == "generated" and line["engine"] == 1]
    assert chrome_trace(twice, 0)["otherData"]["busy_share"]["engine 1"] == 0.3


def test_a_round_without_times_is_refused_with_those_that_are_known():
    with pytest.raises(UsageError, match=r"no times of round 5; it knows rounds \[0, 1\]"):
        chrome_trace(told_lines(0, 1), 5)


def test_lines_of_older_runs_have_stages_all_the_same():
    old = [{"kind": "stage", "round": 0, "stage": "learn", "seconds": 5.0, "time": 100.0}]
    old += [{"kind": "generated", "round": 0, "stage": "generate", "num_tokens": 1, "num_groups": 1, "time": 90.0}]
    (span,) = [
        event for event in chrome_trace(old, 0)["traceEvents"] if event["ph"] == "X" and event["cat"] == "driver"
    ]
    assert span["dur"] == 5_000_000
