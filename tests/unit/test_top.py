"""The live page."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from orchestrator.telemetry.top import now_of, top_page
from tests.support.told_events import START, told_events, told_record

FOUND = {
    "state": "running",
    "num_rounds": 3,
    "labelling_page": None,
    "num_pairs_total": 8,
    "num_steps_total": 2,
}
KEPT = ("stage", "generated", "shard_judged", "judged", "step", "sync")


def lines_until(seconds, round_id=0):
    events = [event for event in told_events(round_id) if event["kind"] in KEPT]
    return [event for event in events if event["time"] <= START + 100 * round_id + seconds]


def open_record(**missing):
    return replace(told_record(), policy_next=None, scores=None, **missing)


def text(page):
    out = io.StringIO()
    Console(file=out, width=160).print(page)
    return out.getvalue()


def test_a_round_in_generation_shows_how_far_and_how_fast_each_engine_is():
    now = now_of([open_record(shards=None, update=None)], lines_until(41), START + 45)
    assert (now.round_id, now.stage, now.num_groups, now.num_prompts) == (0, "generate", 10, 10)
    assert now.tokens_per_s == {0: pytest.approx(2000 / 60), 1: pytest.approx(2000 / 60)}
    assert now.judging["judge"]["requests"] == 50
    page = text(top_page("runs/my", FOUND, now, [told_record()]))
    assert "round 0 of 3  generate" in page
    assert "engine 1 33 tokens/s" in page
    assert "50 requests  0.50 s each  spent 0.50" in page
    assert "10/10 prompts" in page


def test_rates_forget_what_is_older_than_a_minute():
    assert now_of([open_record(update=None)], lines_until(60), START + 150).tokens_per_s == {}


def test_a_round_in_learning_shows_its_step():
    now = now_of([open_record(update=None)], lines_until(60), START + 62)
    page = text(top_page("runs/my", FOUND, now, []))
    assert "1/2 steps" in page
    assert "accuracy 0.75" in page
    assert "last event 2 s ago" in page


def test_after_the_last_round_that_round_stays_on_the_page():
    now = now_of([told_record()], lines_until(100), START + 5000)
    page = text(top_page("runs/my", {**FOUND, "state": "done"}, now, [told_record()]))
    assert "round 0 of 3  done" in page
    assert "last event" not in page
    assert "v0>v1" in page


def test_a_run_without_rounds_says_so():
    page = text(top_page("runs/my", FOUND, now_of([], [], START), []))
    assert "no round has begun" in page


def test_a_shard_that_was_made_twice_counts_once():
    twice = lines_until(41) + [line for line in lines_until(41) if line["kind"] == "generated"]
    assert now_of([open_record(update=None)], twice, START + 45).num_groups == 10
