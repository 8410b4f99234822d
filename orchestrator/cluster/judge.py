"""Judges as Ray actors."""

import shlex
import sys
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from judge.actor import JudgeActor
from judge.config import JudgeConfig, people_of
from judge.types import Answer, JudgeReport, PairShard, Purpose, Verdict
from orchestrator.cluster.calls import START_TIMEOUT_S, Calls, actor_of
from orchestrator.observer import Observer
from orchestrator.rundir import RunDir
from rollout.errors import InfraError
from rollout.types import GroupShard

_IN_FLIGHT = 8
_ATTEMPTS = 5


@dataclass
class _Judging:
    ref: Any
    place: int
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    submitted: float = field(default_factory=time.time)
    finished: float | None = None

    def __post_init__(self) -> None:
        # Results are collected in the order of submission; when each was there is known only to a callback.
        if self.method == "build":
            self.ref.future().add_done_callback(self._note)

    def _note(self, future: Any) -> None:
        if future.exception() is None:
            self.finished = time.time()


class RayJudge:
    """Judges as Ray actors, fed while generation goes on; a shard whose judge died goes to another one."""

    def __init__(
        self,
        root: Path,
        run_id: str,
        settings: JudgeConfig,
        observer: Observer,
        *,
        name: str = "judge",
        actor: Any = JudgeActor,
    ) -> None:
        self._observer, self._name = observer, name
        self.judge_id = ""
        self.totals: defaultdict[str, float] = defaultdict(float)
        self._calls = Calls(observer)
        self._settings = settings
        self._said_waiting = ""
        options = {"num_cpus": settings.cpus_per_actor, "num_gpus": settings.gpus_per_actor, "max_restarts": -1}
        self._actors = [
            actor_of(actor)
            .options(**options)
            .remote(
                settings=settings,
                run_dir=str(root),
                run_id=run_id,
                name=name,
                actor=number,
                num_actors=settings.num_actors,
                command=shlex.join(["rondo", *sys.argv[1:]]),
            )
            for number in range(settings.num_actors)
        ]

    def start(self) -> None:
        """Wait until every judge is ready. Raises UsageError if it cannot work as configured."""
        for actor, ref in enumerate([each.start.remote() for each in self._actors]):
            self.judge_id = self._calls.get(ref, what=f"start of {self._name}-{actor}", timeout_s=START_TIMEOUT_S)

    def configure(self, settings: JudgeConfig) -> None:
        """Judge what comes next by these settings."""
        if settings == self._settings:
            return
        for actor, ref in enumerate([each.configure.remote(settings) for each in self._actors]):
            self._calls.get(ref, what=f"configuring {self._name}-{actor}", timeout_s=START_TIMEOUT_S)
        self._settings = settings

    def build(self, groups: Iterable[GroupShard], *, round_id: int, num_chunks: int) -> tuple[PairShard, ...]:
        folder = RunDir.round_dir(round_id)
        kwargs = {"verdict_dir": f"{folder}/verdicts", "pair_dir": f"{folder}/pairs", "num_chunks": num_chunks}
        pending: deque[_Judging] = deque()
        shards: list[PairShard] = []
        for place, group in enumerate(groups):
            pending.append(self._submit(place, "build", group, **kwargs))
            while self._max_in_flight is not None and len(pending) > self._max_in_flight:
                shards.append(self._built(pending))
            self._observer.tell("queue", queue="judging", depth=len(pending))
        with self._observer.stage(round_id, "judge"):
            while pending:
                shards.append(self._built(pending))
        self.take_report(round_id)
        return tuple(sorted(shards, key=lambda shard: shard.chunk_id))

    def compare(
        self,
        candidates: Sequence[GroupShard],
        baselines: Sequence[GroupShard],
        *,
        out_dir: str,
        purpose: Purpose = "held_out",
    ) -> list[Verdict]:
        kwargs = {"out_dir": out_dir, "purpose": purpose, "num_chunks": len(candidates)}
        work = [
            self._submit(ours.chunk_id, "compare", ours, theirs, **kwargs)
            for ours, theirs in zip(candidates, baselines, strict=True)
        ]
        verdicts = [verdict for each in work for verdict in self._result(each)]
        self.take_report(None)
        return verdicts

    def answer(self, shard: GroupShard, *, out_dir: str) -> list[Answer]:
        answers: list[Answer] = self._result(self._submit(shard.chunk_id, "answer", shard, out_dir=out_dir))
        return answers

    def _built(self, pending: deque[_Judging]) -> PairShard:
        """The oldest shard, awaited, and when its judge had it."""
        work = pending.popleft()
        shard: PairShard = self._result(work)
        self._observer.record(
            "shard_judged",
            judge=self._name,
            chunk_id=shard.chunk_id,
            num_pairs=shard.num_pairs,
            submitted=work.submitted,
            finished=work.finished or time.time(),  # a shard that another judge finished has no time of its own
        )
        self._observer.tell("queue", queue="judging", depth=len(pending))
        return shard

    def _submit(self, place: int, method: str, *args: Any, **kwargs: Any) -> _Judging:
        actor = place % len(self._actors)
        ref = getattr(self._actors[actor], method).remote(*args, **kwargs)
        return _Judging(ref, place, method, args, kwargs)

    def _result(self, work: _Judging) -> Any:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                # The judge's own deadlines are those of its calls; a shard takes as many calls as it has groups.
                what = f"{self._name} on a shard"
                return self._calls.get(work.ref, what=what, timeout_s=None, meanwhile=self._tell_waiting)
            except InfraError as error:
                if attempt == _ATTEMPTS:
                    raise
                self._observer.warn(f"{error}; the shard is judged again")
                time.sleep(2.0 ** (attempt - 1))  # Ray may still be bringing the process back
                for actor in self._actors:  # one that has come back knows only the settings that it was made with
                    actor.configure.remote(self._settings)
                work = self._submit(work.place + attempt, work.method, *work.args, **work.kwargs)
        raise AssertionError

    @property
    def _max_in_flight(self) -> int | None:
        """People see a round as a whole, so that none of its chunks may wait for another one's end."""
        return None if people_of(self._settings) else _IN_FLIGHT * len(self._actors)

    def _tell_waiting(self) -> None:
        """Show what the judges wait for; said in a line of its own once a round."""
        if people_of(self._settings) is None:
            return
        for actor, ref in enumerate([each.waiting_for.remote() for each in self._actors]):
            try:
                waiting: str = self._calls.get(ref, what=f"{self._name}-{actor}", timeout_s=60)
            except InfraError:
                return  # the shard's own call tells of it
            if waiting:
                what, _, how_far = waiting.partition(": ")
                if what != self._said_waiting:
                    self._observer.say(waiting)
                    self._said_waiting = what
                self._observer.advance(0, note=how_far)
                return

    def take_report(self, round_id: int | None) -> None:
        """Add what the judges did since the last report to the totals, and show their notices."""
        counts: defaultdict[str, float] = defaultdict(float)
        for actor, ref in enumerate([each.report.remote() for each in self._actors]):
            try:
                report: JudgeReport = self._calls.get(ref, what=f"report of {self._name}-{actor}", timeout_s=60)
            except InfraError as error:  # its counts went with its process; what it judged is on the disk
                self._observer.warn(f"{error}; its counts are missing from this round's")
                continue
            for key, count in report.counts.items():
                counts[key] += count
                self.totals[key] += count
            for notice in report.notices:
                self._observer.warn(f"{self._name}-{actor}: {notice}")
        if counts:
            self._observer.record("judged", round_id=round_id, judge=self._name, **counts)
