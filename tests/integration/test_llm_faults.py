"""10,000 comparisons through an endpoint of which one request in five fails; and a judge that is killed half-way."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest

from judge.types import FAILED_OVER
from judge.values import outcome_of
from tests.support.asked import STUBBORN, llm, process, quality, question, tally
from tests.support.fault_server import BIAS, KINDS

pytestmark = pytest.mark.integration

NUM_PAIRS = 10_000
NUM_STUBBORN = 10  # pairs of each kind of fault that does not go away
SETTINGS = {"concurrency": 96, "timeout_s": 6.0, "max_attempts": 3, "max_backoff_s": 0.2, "max_tokens": 16}


def questions(num_pairs, *, first=0):
    """The last ones carry faults that do not go away, spread so that they never look like a dead endpoint."""
    kinds = [kind for kind in STUBBORN for _ in range(NUM_STUBBORN)]
    step = num_pairs // len(kinds)
    stubborn = {place * step: kind for place, kind in enumerate(kinds)}
    return {
        first + place: (stubborn.get(place), question(first + place, extra=f"stubborn {kind}" if kind else ""))
        for place in range(num_pairs)
        for kind in [stubborn.get(place)]
    }


def run(url, folder, method, asked, **changes):
    async def judged():
        judge = llm(url, folder, name=method, method=method, **{**SETTINGS, **changes})
        await judge.start()
        found = await judge.judge([each for _, each in asked.values()])
        await judge.close()
        return [each for [each] in found], judge.report().counts

    return asyncio.run(judged())


def check(asked, verdicts, method):
    """Each verdict is the server's opinion on that very pair; the number of those that had bad luck three times."""
    assert len(verdicts) == len(asked), "none lost"
    unlucky = 0
    for (number, (kind, each)), verdict in zip(asked.items(), verdicts, strict=True):
        assert verdict.prompt_id == each.group.prompt.prompt_id
        a, b = quality(number, 0), quality(number, 1)
        if kind is not None:
            assert (verdict.outcome, verdict.reason) == ("abstain", STUBBORN[kind][method])
            assert verdict.evidence
        elif verdict.outcome == "abstain":
            assert verdict.reason in {STUBBORN[kind][method] for kind in STUBBORN if kind != "server_error"}
            assert [one["reask"] for one in json.loads(verdict.evidence) if "reason" in one][-1] == 2
            unlucky += 1
        elif method == "logprobs":
            first, second = (min(0.99, x / (a + b) + BIAS) for x in (a, b))
            assert verdict.p_a == pytest.approx(0.5 + (first - second) / 2, abs=1e-9)
            assert verdict.outcome == outcome_of(verdict.p_a, 0.5)
        else:
            assert verdict.p_a == (0.5 if a == b else float(a > b)), verdict
    return unlucky


def test_every_pair_is_judged_abstained_on_or_failed_over_once(tmp_path):
    started = time.monotonic()
    halves = {"logprobs": questions(NUM_PAIRS // 2), "json": questions(NUM_PAIRS // 2, first=NUM_PAIRS)}
    counts = Counter()
    with process("tests.support.fault_server") as url:
        reasons, unlucky = Counter(), 0
        for method, asked in halves.items():
            verdicts, counted = run(url, tmp_path, method, asked)
            unlucky += check(asked, verdicts, method)
            counts.update(counted)
            reasons.update(each.reason for each in verdicts)
        account = tally(url)
    print(f"{time.monotonic() - started:.0f} s", dict(counts), account, dict(reasons))
    faulty = sum(account.get(kind, 0) for kind in KINDS)
    assert set(KINDS) <= account.keys(), "every kind of fault came"
    assert 0.15 < faulty / account["requests"] < 0.25
    assert reasons[""] == NUM_PAIRS - 2 * NUM_STUBBORN * len(STUBBORN) - unlucky
    assert unlucky < NUM_PAIRS / 500
    assert reasons["endpoint_failed"] == 2 * NUM_STUBBORN
    assert FAILED_OVER & reasons.keys() == {"endpoint_failed"}
    assert account["answered_twice"] == 0, "nothing is judged twice"
    assert counts["requests"] == account["requests"]
    assert counts["prompt_tokens"] + counts["completion_tokens"] == account["tokens"], "counted to the token"
    assert counts["tokens_assumed"] >= account["tokens_unreported"]
    assert counts["failed_rate_limited"] == account["rate_limited"] + account["rate_limited_by_date"]
    assert counts["failed_server_error"] == account["server_error"]
    assert counts["failed_timeout"] == account["hang"]
    assert counts["failed_unusable_body"] + counts["failed_connection"] == (
        account["truncated_json"] + account["cut_connection"]
    )


def test_nothing_is_random(tmp_path):
    asked = questions(200)
    found = []
    for attempt in range(2):
        with process("tests.support.fault_server", "--retry-after-s", "0.05") as url:
            folder = tmp_path / str(attempt)
            changes = {"concurrency": 64 if attempt else 16, "timeout_s": 4.0}
            found.append([run(url, folder, method, asked, **changes)[0] for method in ("logprobs", "json")])
    assert found[0] == found[1]


def test_a_killed_judge_pays_for_no_verdict_twice(tmp_path):
    num_pairs, script = (
        400,
        "import sys; from tests.integration import test_llm_faults as t; t.judge_all(*sys.argv[1:])",
    )
    with process("tests.support.fault_server", "--one-in", "1000000000") as url:
        command = [sys.executable, "-c", script, url, str(tmp_path / "store"), str(num_pairs)]
        first = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        deadline = time.monotonic() + 60
        while tally(url).get("requests", 0) < num_pairs:
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.01)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
        paid = tally(url)["requests"]
        [path] = (tmp_path / "store").glob("*.jsonl")
        path.write_bytes(path.read_bytes()[:-7])  # as if the last line had been cut off
        kept = path.read_bytes().count(b'"key":"', 0, path.read_bytes().rindex(b"\n"))
        assert num_pairs // 2 < kept < paid < 2 * num_pairs
        again = subprocess.run(command, capture_output=True, text=True, check=True)
        assert tally(url)["requests"] == paid + 1 + 2 * num_pairs - kept
        report = json.loads(again.stdout)
    assert report["outcomes"].get("abstain", 0) == 0
    assert sum(report["outcomes"].values()) == num_pairs
    assert report["counts"]["cache_hits"] == kept


def judge_all(url, folder, num_pairs):
    """The process that is killed: judges, and prints its outcomes and counts."""
    from pathlib import Path

    asked = {number: (None, question(number)) for number in range(int(num_pairs))}
    verdicts, counts = run(url, Path(folder), "logprobs", asked, concurrency=16)
    print(json.dumps({"outcomes": Counter(each.outcome for each in verdicts), "counts": counts}))
