"""`rondo bench label`: a crowd labels a round over HTTP while its server is killed and restarted."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import yaml
from sqlalchemy import func, select

from judge.human.accounts import Accounts
from judge.human.crowd import Habits, Tally, crowd
from judge.human.database import Database
from judge.human.resolution import settle, wanted_labels
from judge.human.rounds import Rounds
from judge.human.schema import labels, tasks
from judge.human.types import Label, NewTask, RoundKey, Rules
from orchestrator.bench import Row, announce, report
from rollout.errors import InfraError
from rollout.types import Message

_CHUNK = 1000
_KEY = RoundKey(run_id="bench", round_id=0)
_ANSWER = "An answer of a usual length, with `code`, **weight** and a list:\n\n- one\n- two\n\n" + 12 * "Words follow. "


@dataclass(frozen=True, kw_only=True)
class Load:
    """How much the crowd is given; a seventh of the annotators' answers differ from what most would say.

    A person looks at a pair for half a second and dwell_s more on average, 5 s in all: 200 of them hand in 40 labels a
    second, about three times as fast as people who read both answers (some 15 s a pair).
    """

    num_pairs: int = 20_000
    num_annotators: int = 200
    num_kills: int = 3
    dwell_s: float = 4.5


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What was found in the queue afterwards, and what the crowd saw.

    num_lost: labels that were confirmed to an annotator and are not there; num_off_quorum: pairs settled by more or
    fewer labels than they want. p50 and p99 are of a submission, in milliseconds.
    """

    num_pairs: int
    num_settled: int
    num_labels: int
    num_lost: int
    num_double: int
    num_off_quorum: int
    num_kills: int
    seconds: float
    p50_ms: float
    p99_ms: float
    statuses: dict[str, int]


def bench_label(queue_url: str | None = None, load: Load | None = None) -> dict[str, Any]:
    """Rows for `rondo bench`: on a SQLite file, or on the PostgreSQL at queue_url."""
    found = run_load(queue_url, load or Load())
    lost = found.num_lost + found.num_double + found.num_off_quorum
    rows = [
        Row(name="submission, 99th percentile", value=found.p99_ms, unit="ms", better="lower", floor=100.0),
        Row(name="submission, median", value=found.p50_ms, unit="ms", better="lower"),
        Row(name="labels", value=found.num_labels / found.seconds, unit="labels/s", better="higher"),
        Row(name="pairs settled", value=float(found.num_settled), unit="pairs", better="higher", floor=found.num_pairs),
        Row(name="labels lost, double or off quorum", value=float(lost), unit="labels", better="lower", floor=0.0),
        Row(name="server killed", value=float(found.num_kills), unit="times", better="higher"),
    ]
    return report("label", rows)


def run_load(queue_url: str | None, load: Load) -> LoadReport:
    """Open a round, let the crowd loose on its page, kill the server meanwhile, and look at what is in the queue."""
    with tempfile.TemporaryDirectory() as folder:
        url = queue_url or f"sqlite:///{folder}/queue.sqlite"
        database = Database(url)
        database.upgrade()
        rounds, links = Rounds(database), [f"/invitation/{_invite(database)}" for _ in range(load.num_annotators)]
        row_id = _fill(rounds, load.num_pairs)
        announce(f"label: {load.num_annotators} annotators, {load.num_pairs} pairs")
        with contextlib.closing(_Server(Path(folder), url)) as server:
            tally = Tally()
            started = time.monotonic()
            asyncio.run(_label(server, rounds, row_id, links, load, tally))
            seconds = time.monotonic() - started
        return _look(database, rounds, row_id, tally, num_kills=server.num_kills, seconds=seconds)


class _Server:
    """`rondo label serve` in a process of its own, on one port whatever happens to it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.num_kills = 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._config = folder / "label.yaml"
        self._config.write_text(yaml.safe_dump({"judge": {"kind": "human", "queue_url": url, "page": {"port": port}}}))
        self._log = open(folder / "server.log", "ab")  # noqa: SIM115
        self._process = self._start()

    def kill(self) -> None:
        """SIGKILL, and start again."""
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.num_kills += 1
        self._process = self._start()

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        self._log.close()

    def _start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "orchestrator.cli", "label", "serve", str(self._config)]
        process = subprocess.Popen(command, stdout=self._log, stderr=self._log, env={**os.environ, "COLUMNS": "200"})
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/healthz", timeout=1).status_code == 200:
                    return process
            time.sleep(0.05)
        said = Path(self._log.name).read_text(errors="replace")[-1000:]
        raise InfraError(f"the labelling page did not come up at {self.address}: {said}")


async def _label(server: _Server, rounds: Rounds, row_id: int, links: list[str], load: Load, tally: Tally) -> None:
    ended = asyncio.Event()
    habits = Habits(dwell_s=load.dwell_s, vanish_share=0.05, replay_share=0.05, race_share=0.01)
    working = asyncio.create_task(crowd(server.address, links, habits=habits, choose=_choose, ended=ended, tally=tally))
    kills = [(number + 1) * load.num_pairs // (load.num_kills + 1) for number in range(load.num_kills)]
    try:
        while not working.done():
            view = await asyncio.to_thread(rounds.view, row_id)
            if view.state == "sealed":
                break
            if kills and view.num_resolved >= kills[0]:
                announce(f"label: {view.num_resolved} of {load.num_pairs} pairs settled; the server is killed now")
                kills.pop(0)
                await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.5)
    finally:
        ended.set()
        await working


def _choose(html: str, left: str, right: str) -> str:
    """The same answer from most people, and another one for a seventh of them."""
    return "left" if sha256(html.encode()).digest()[0] % 7 else "tie"


def _invite(database: Database) -> str:
    return Accounts(database).invite("annotator", "bench")


def _fill(rounds: Rounds, num_pairs: int) -> int:
    rules = Rules(lease_s=20.0, min_dwell_s=0.1, labels_per_minute=600, double_share=0.1)
    starts = range(0, num_pairs, _CHUNK)
    view = rounds.open(_KEY, "bench", rules, len(starts))
    for chunk_id, start in enumerate(starts):
        rounds.submit_chunk(view.row_id, chunk_id, [_task(n) for n in range(start, min(start + _CHUNK, num_pairs))])
    return view.row_id


def _task(number: int) -> NewTask:
    return NewTask(
        key=sha256(f"pair {number}".encode()).hexdigest(),
        prompt_id=f"prompt {number}",
        a=0,
        b=1,
        messages=(Message(role="user", content=f"What about number {number}?"),),
        text_a=f"{_ANSWER}{number}",
        text_b=f"{_ANSWER}{number} and then some.",
    )


def _is_exact(key: str, given: list[Label], outcome: str | None, rules: Rules) -> bool:
    """The labels settle the pair as it is settled, and one label fewer did not."""
    wanted = wanted_labels(key, rules)
    return settle(given, 0, wanted, rules).outcome == outcome and settle(given[:-1], 0, wanted, rules).outcome is None


def _look(
    database: Database, rounds: Rounds, row_id: int, tally: Tally, *, num_kills: int, seconds: float
) -> LoadReport:
    with database.read() as connection:
        there = set(connection.execute(select(labels.c.id)).scalars())
        in_time = select(labels.c.task_row, labels.c.label).where(labels.c.is_late.is_(False)).order_by(labels.c.id)
        given: defaultdict[int, list[Label]] = defaultdict(list)
        for task_row, label in connection.execute(in_time):
            given[task_row].append(label)
        by_two = (
            select(func.count())
            .select_from(labels)
            .group_by(labels.c.task_row, labels.c.annotator_id)
            .having(func.count() > 1)
        )
        num_double = len(connection.execute(by_two).all())
        rows = connection.execute(select(tasks.c.id, tasks.c.key, tasks.c.outcome)).all()
    rounds.verify(row_id)
    rules = rounds.view(row_id).rules
    milliseconds = 1000 * np.asarray(tally.seconds)
    return LoadReport(
        num_pairs=len(rows),
        num_settled=sum(row.outcome is not None for row in rows),
        num_labels=len(there),
        num_lost=len(set(tally.label_ids) - there),
        num_double=num_double,
        num_off_quorum=sum(not _is_exact(row.key, given[row.id], row.outcome, rules) for row in rows),
        num_kills=num_kills,
        seconds=seconds,
        p50_ms=float(np.quantile(milliseconds, 0.5)),
        p99_ms=float(np.quantile(milliseconds, 0.99)),
        statuses=dict(sorted(tally.statuses.items())),
    )
