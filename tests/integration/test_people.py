"""The quickstart with people as the judge: scripted annotators on the real page, kills of the run and of the server.

They label by the quickstart's preference, so that the run should learn what the function judge's run learns.
"""

import contextlib
import re
import socket
import time
from html import unescape

import httpx
import pytest

from judge.human.crowd import Habits
from judge.human.database import Database
from judge.human.rounds import Rounds
from judge.shards import read_verdicts
from judge.types import VerdictShard
from orchestrator.quickstart import prompts
from orchestrator.quickstart.preference import prefer
from orchestrator.status import open_journal
from rollout.shards import find_shards
from tests.support.accounts import check_accounts
from tests.support.page_crowd import people
from tests.support.processes import Command

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]

CONFIG = "configs/quickstart-people.yaml"
STRIKE = 1  # the round in which people stop after a while, so that its deadline passes
ANSWER = re.compile(r'data-view="rendered">(.*?)</div>', re.DOTALL)
PROMPT = re.compile(r'<div class="prose" dir="auto">(.*?)</div>', re.DOTALL)


def words(html):
    return unescape(re.sub(r"<[^>]*>", " ", html)).strip()


class Preference:
    """Reads the page as a person does, and prefers as the quickstart does; on strike after some of one round."""

    def __init__(self):
        self.about = {row["prompt"]: row for row in prompts()}
        self.num_seen = {}

    def __call__(self, html, left, right):
        question = words(PROMPT.search(html)[1])
        round_id = int(re.search(r"Round (\d+)", html)[1])
        self.num_seen[round_id] = self.num_seen.get(round_id, 0) + 1
        if round_id == STRIKE and self.num_seen[round_id] > 300:
            return None
        row = self.about[question]
        scores = [prefer(words(answer), row["subject"], row["keywords"]) for answer in ANSWER.findall(html)]
        assert len(scores) == 2
        return "tie" if scores[0] == scores[1] else "left" if scores[0] > scores[1] else "right"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(condition, what, timeout_s=400.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"no {what} within {timeout_s} s"
        time.sleep(0.1)


def is_up(address):
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{address}/healthz", timeout=1).status_code == 200
    return False


def test_three_rounds_of_people_survive_kills_and_learn_as_well_as_with_the_function_judge(quickstart, tmp_path):
    root, port = tmp_path / "run", free_port()
    address = f"http://127.0.0.1:{port}"
    own = {
        "policy": f"{{path: {quickstart.root / 'policies/v0000'}, dtype: float32}}",
        "rollout.num_completions": 4,
        "judge.deadline_s": 50,
        "judge.min_dwell_s": 0,
        "judge.labels_per_minute": 100_000,
        "judge.double_share": 0.02,
        "judge.page": f"{{serve: false, port: {port}}}",
    }
    options = [word for name, value in own.items() for word in ("--set", f"{name}={value}")]
    where = (CONFIG, "--run-dir", str(root), *options)
    server = Command("label", "serve", *where, log=tmp_path / "server.log")
    until(lambda: is_up(address), "labelling page", 60)
    database = Database(f"sqlite:///{root}/labels/queue.sqlite")
    rounds = Rounds(database)

    def labels_of(round_id):
        return next((view.num_labels for view in rounds.all() if view.key.round_id == round_id), 0)

    run = Command("run", *where, log=tmp_path / "run.log")
    habits = Habits(dwell_s=0.01, min_dwell_s=0.0, replay_share=0.05)
    with people(address, database, choose=Preference(), habits=habits) as tally:
        until(lambda: labels_of(0) > 100, "labels of round 0")
        run.kill()
        assert run.leftovers(within_s=90) == []
        run = Command("run", *where, log=tmp_path / "run.log")
        until(lambda: labels_of(2) > 100, "labels of round 2")
        server.kill()
        server = Command("label", "serve", *where, log=tmp_path / "server.log")
        code, _, _ = run.finish(timeout_s=900)
    server.kill()
    log = (tmp_path / "run.log").read_text()
    assert code == 0, log[-3000:]
    check_accounts(root)

    views = {view.key.round_id: view for view in rounds.all()}
    assert [views[n].state for n in range(3)] == ["sealed"] * 3
    assert [views[n].sealed_by for n in range(3)] == ["quorum", "deadline", "quorum"]
    for view in views.values():
        rounds.verify(view.row_id)
    assert "takes over" in log
    with database.read() as connection:
        there = set(connection.exec_driver_sql("SELECT id FROM labels").scalars())
    assert set(tally.label_ids) <= there, "a label that was confirmed is lost"
    assert tally.statuses["replay 200"] > 0

    sources = [sources_of(root, n) for n in range(3)]
    assert sources[0].keys() == sources[2].keys() == {"human"}
    assert sources[STRIKE].keys() == {"human", "function"}, "what people said before their deadline counts"
    win_rates = [record.scores.win_rate for record in open_journal(root).records()]
    reference = [record.scores.win_rate for record in open_journal(quickstart.root).records()][2]
    print("people", [f"{rate.mean:.3f} [{rate.low:.3f}, {rate.high:.3f}]" for rate in win_rates], "function", reference)
    assert win_rates[-1].mean >= 0.75
    assert win_rates[-1].high >= reference.low


def sources_of(root, round_id):
    """Verdicts of a round by where they came from."""
    found = {}
    for shard in find_shards(root, f"rounds/{round_id:04d}/verdicts", VerdictShard):
        for verdict in read_verdicts(root, shard):
            found[verdict.source] = found.get(verdict.source, 0) + 1
    return found
