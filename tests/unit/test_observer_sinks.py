"""Whoever listens to a run hears of everything, and cannot harm it."""

import io
import json

import pytest
from rich.console import Console

from orchestrator.observer import Observer
from tests.support.told_events import told_record


class Heard:
    def __init__(self):
        self.events, self.closed = [], 0

    def take(self, event):
        self.events.append(dict(event))

    def close(self):
        self.closed += 1


class Broken(Heard):
    def take(self, event):
        raise ConnectionError("tracker.example.org is down")

    def close(self):
        raise ConnectionError("still down")


@pytest.fixture
def shown():
    return io.StringIO()


@pytest.fixture
def observer(tmp_path, shown):
    return Observer(tmp_path, console=Console(file=shown, width=200))


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_a_sink_hears_what_the_file_keeps_and_what_it_does_not(tmp_path, observer):
    heard = Heard()
    observer.attach(heard)
    with observer.stage(0, "generate", total=2):
        observer.advance(1)
        observer.record("generated", engine=0, num_tokens=3, num_groups=1)
    observer.warn("careful")
    kinds = [event["kind"] for event in heard.events]
    assert kinds == ["stage_started", "progress", "generated", "stage", "said"]
    assert [line["kind"] for line in lines(tmp_path)] == ["generated", "stage"]
    assert heard.events[-1]["level"] == "warning"


def test_stages_know_when_they_began_and_what_they_stand_in(tmp_path, observer):
    with observer.stage(0, "evaluate"), observer.stage(None, "sync"):
        pass
    sync, evaluate = lines(tmp_path)
    assert (sync["stage"], sync["round"], sync["outer"]) == ("sync", 0, "evaluate")
    assert evaluate["started"] <= sync["started"] <= sync["time"] <= evaluate["time"]


def test_a_sink_that_fails_is_left_out_and_the_run_goes_on(tmp_path, observer, shown):
    heard = Heard()
    observer.attach(Broken())
    observer.attach(heard)
    observer.record("generated", num_tokens=1)
    observer.record("generated", num_tokens=2)
    observer.close()
    assert [event["num_tokens"] for event in heard.events] == [1, 2]
    assert shown.getvalue().count("Broken failed (ConnectionError: tracker.example.org is down)") == 1
    assert heard.closed == 1
    assert len(lines(tmp_path)) == 2


def test_sinks_are_closed_once(observer):
    heard = Heard()
    observer.attach(heard)
    observer.close()
    observer.close()
    assert heard.closed == 1


def test_a_round_that_only_comes_back_filled_in_is_told_as_resumed(observer):
    heard = Heard()
    observer.attach(heard)
    observer.round_done(told_record(0))
    with observer.stage(1, "learn"):
        pass
    observer.round_done(told_record(1))
    done = [event for event in heard.events if event["kind"] == "round_done"]
    assert [event["resumed"] for event in done] == [True, False]
