"""The stages on Ray: actors started side by side, work dispatched bounded in flight, failures retried elsewhere."""

import logging
import os
import time
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from judge.actor import JudgeActor
from judge.config import JudgeConfig, as_judge
from judge.types import Answer, JudgeReport, PairShard, Verdict
from learner.actor import LearnerActor
from learner.config import LearnerConfig
from learner.types import LearnerUpdate, StepMetrics
from orchestrator.config import ClusterConfig, RunConfig
from orchestrator.observer import Observer
from orchestrator.rundir import RunDir
from orchestrator.stages import Cluster, OnStep
from rollout.actor import RolloutActor
from rollout.errors import InfraError, RondoError
from rollout.shards import find_shards
from rollout.types import GroupShard, LoadReport, Logps, PolicyRef, PromptChunk, Sampling, TokenSequence

_POLL_S = 0.5
_JUDGES_IN_FLIGHT = 8
_MAX_ATTEMPTS = 3
_JUDGE_ATTEMPTS = 5
_START_TIMEOUT_S = 900.0
# Threads that wait spin a little and then sleep: spinning for long starves whoever else is on the machine, the next
# stage above all (a step of the quickstart took 20 times as long), and not spinning at all costs half the speed.
_QUIET_THREADS = {"env_vars": {"GOMP_SPINCOUNT": "20000"}}


def start_ray(config: ClusterConfig) -> None:
    """Join the cluster that this process was pointed at (a Ray job, RAY_ADDRESS), or start a local one of its own."""
    if ray.is_initialized():
        return
    # Our own progress and errors are what a person should see; workers' logs are in Ray's log folder.
    common: dict[str, Any] = {"log_to_driver": bool(os.environ.get("RONDO_LOG_TO_DRIVER")), "logging_level": "ERROR"}
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address="auto", **common)
        return
    ray.init(
        address="local",  # never one that happens to run, or ran, on this machine
        num_cpus=config.num_cpus,
        object_store_memory=config.object_store_mib * 1024 * 1024,
        include_dashboard=config.dashboard,
        configure_logging=True,
        # Idle workers started ahead of time are of no use to actors with an environment of their own.
        _system_config={"prestart_worker_first_driver": False},
        **common,
    )


def stop_ray() -> None:
    """Leave the cluster; a local one ends with it."""
    ray.shutdown()


class Calls:
    """Waits for remote results in short slices, so that a stop is noticed, and translates Ray's errors."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def get(self, ref: Any, *, what: str, timeout_s: float | None) -> Any:
        """The result. Our own errors come back as themselves, a dead process or a deadline as InfraError."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._observer.check_stop()
            try:
                return ray.get(ref, timeout=_POLL_S)
            except ray.exceptions.GetTimeoutError as error:
                if deadline is not None and time.monotonic() > deadline:
                    raise InfraError(
                        f"{what} did not answer within {timeout_s:.0f} s; its log is in Ray's log folder"
                    ) from error
            except RayTaskError as error:
                if isinstance(error.cause, RondoError):
                    raise error.cause from None
                raise
            except RayActorError as error:
                raise InfraError(f"{what}: its process died ({str(error).splitlines()[0]})") from error

    def stream(self, generator: Any, *, what: str, timeout_s: float) -> Iterator[Any]:
        """The results of a streaming task, each awaited for at most timeout_s."""
        started = time.monotonic()
        while True:
            self._observer.check_stop()
            ready, _ = ray.wait([generator], timeout=_POLL_S)
            if ready:
                try:
                    ref = next(generator)
                except StopIteration:
                    return
                yield self.get(ref, what=what, timeout_s=timeout_s)
                started = time.monotonic()
            elif time.monotonic() - started > timeout_s:
                raise InfraError(f"{what} did not answer within {timeout_s:.0f} s; its log is in Ray's log folder")


def _actor(decorated: Any) -> Any:
    """What @ray.remote makes of a class, which type checkers take for the class itself."""
    return decorated


@dataclass
class _InFlight:
    chunk: PromptChunk
    engine: int
    submitted: float


@dataclass
class _Judging:
    ref: Any
    place: int
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


class RayRollout:
    """Engines as Ray actors; chunks go to whichever engine has room."""

    def __init__(self, run: RunDir, config: RunConfig, observer: Observer) -> None:
        settings = config.rollout
        self._run, self._settings, self._observer = run, settings, observer
        self._calls = Calls(observer)
        gpus = settings.gpus_per_engine
        if gpus is None:
            gpus = settings.tensor_parallel_size if ray.cluster_resources().get("GPU") else 0
        make = _actor(RolloutActor).options(
            num_cpus=settings.cpus_per_engine, num_gpus=gpus, max_restarts=-1, runtime_env=_QUIET_THREADS
        )
        self._engines = [
            make.remote(
                index=index,
                settings=settings,
                run_dir=str(run.root),
                dtype=config.policy.dtype,
                seed=config.seed,
                chat_template=config.policy.chat_template,
                chat_template_kwargs=dict(config.policy.chat_template_kwargs),
                system_prompt=config.policy.system_prompt,
                frozen_date=run.file.started_on,
            )
            for index in range(settings.num_engines)
        ]
        self._loaded: dict[int, PolicyRef] = {}
        self._starting: dict[int, Any] = {}

    def start(self, policy: PolicyRef) -> None:
        """Begin to start every engine with this policy, without waiting for it."""
        for index, engine in enumerate(self._engines):
            self._starting[index] = engine.start.remote(policy)
            self._loaded[index] = policy

    def load(self, policy: PolicyRef) -> None:
        if not self._loaded:
            self.start(policy)
        if self._starting:
            with self._observer.stage(None, "start engines"):
                for index, ref in self._starting.items():
                    self._calls.get(ref, what=f"start of engine {index}", timeout_s=self._settings.start_timeout_s)
            self._starting = {}
        stale = [index for index in self._loaded if self._loaded[index] != policy]
        if not stale:
            return
        with self._observer.stage(None, "sync"):
            waiting = {index: self._engines[index].load.remote(policy) for index in stale}
            for index, ref in waiting.items():
                report: LoadReport = self._calls.get(
                    ref, what=f"weight update of engine {index}", timeout_s=self._settings.start_timeout_s
                )
                self._loaded[index] = policy
                self._observer.record(
                    "sync", engine=index, version=report.version, load_s=report.seconds, size_bytes=report.size_bytes
                )

    def generate(self, chunks: Sequence[PromptChunk], *, policy: PolicyRef, sampling: Sampling) -> Iterator[GroupShard]:
        finished = {s.chunk_id: s for c in chunks[:1] for s in find_shards(self._run.root, c.shard_dir, GroupShard)}
        for chunk in chunks:
            if chunk.chunk_id in finished:
                self._observer.advance(len(chunk.prompts))
                yield finished[chunk.chunk_id]
        waiting = deque(chunk for chunk in chunks if chunk.chunk_id not in finished)
        if not waiting:
            return
        self.load(policy)
        attempts: dict[int, int] = {}
        in_flight: dict[Any, _InFlight] = {}
        while waiting or in_flight:
            self._submit(waiting, in_flight, policy, sampling)
            done, _ = ray.wait(list(in_flight), num_returns=1, timeout=_POLL_S)
            self._observer.check_stop()
            self._check_deadline(in_flight)
            if not self._observer.saw_first_token:
                self._poll_progress()
            for ref in done:
                work = in_flight.pop(ref)
                try:
                    shard = self._calls.get(ref, what=f"generation on engine {work.engine}", timeout_s=None)
                except InfraError as error:
                    self._retry(work, attempts, waiting, policy, error)
                    continue
                self._observer.advance(len(work.chunk.prompts))
                self._observer.record("generated", num_tokens=shard.num_tokens, num_groups=shard.num_groups)
                yield shard

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        self.load(policy)
        logps: list[Logps] = self._calls.get(
            self._engines[0].score.remote(list(sequences)),
            what="scoring on engine 0",
            timeout_s=self._settings.generate_timeout_s,
        )
        return logps

    def _submit(
        self, waiting: deque[PromptChunk], in_flight: dict[Any, _InFlight], policy: PolicyRef, sampling: Sampling
    ) -> None:
        load = [sum(work.engine == index for work in in_flight.values()) for index in range(len(self._engines))]
        while waiting and min(load) < self._settings.shards_in_flight:
            index = load.index(min(load))
            chunk = waiting.popleft()
            ref = self._engines[index].generate.remote(chunk, policy, sampling)
            in_flight[ref] = _InFlight(chunk, index, time.monotonic())
            load[index] += 1

    def _retry(
        self,
        work: _InFlight,
        attempts: dict[int, int],
        waiting: deque[PromptChunk],
        policy: PolicyRef,
        error: InfraError,
    ) -> None:
        chunk_id = work.chunk.chunk_id
        attempts[chunk_id] = attempts.get(chunk_id, 0) + 1
        if attempts[chunk_id] >= self._settings.max_attempts:
            raise InfraError(
                f"chunk {chunk_id} of round {work.chunk.round_id} failed {attempts[chunk_id]} times, last with: {error}"
            ) from error
        self._observer.warn(f"{error}; chunk {chunk_id} is tried again")
        waiting.appendleft(work.chunk)
        # A restarted process has no engine yet, and a broken engine no usable weights: both load before taking work.
        # Ray may still be bringing the process back, which refuses calls meanwhile.
        for attempt in Retrying(
            reraise=True,
            stop=stop_after_attempt(6),
            wait=wait_exponential(max=10),
            retry=retry_if_exception_type(InfraError),
        ):
            with attempt:
                ref = self._engines[work.engine].start.remote(policy)
                self._calls.get(ref, what=f"restart of engine {work.engine}", timeout_s=self._settings.start_timeout_s)
        self._loaded[work.engine] = policy

    def _check_deadline(self, in_flight: dict[Any, _InFlight]) -> None:
        limit = self._settings.generate_timeout_s
        for work in in_flight.values():
            if time.monotonic() - work.submitted > limit + _POLL_S * 20:
                raise InfraError(f"engine {work.engine} has not finished chunk {work.chunk.chunk_id} in {limit:.0f} s")

    def _poll_progress(self) -> None:
        for index, engine in enumerate(self._engines):
            if self._calls.get(engine.progress.remote(), what=f"progress of engine {index}", timeout_s=60).num_tokens:
                self._observer.first_token()


class RayJudge:
    """Judges as Ray actors, fed while generation goes on; a shard whose judge died goes to another one."""

    def __init__(
        self, root: Path, run_id: str, settings: JudgeConfig, observer: Observer, *, name: str = "judge"
    ) -> None:
        self._observer, self._name = observer, name
        self.judge_id = ""
        self.totals: defaultdict[str, float] = defaultdict(float)
        self._calls = Calls(observer)
        self._settings = settings
        options = {"num_cpus": settings.cpus_per_actor, "num_gpus": settings.gpus_per_actor, "max_restarts": -1}
        self._actors = [
            _actor(JudgeActor)
            .options(**options)
            .remote(
                settings=settings,
                run_dir=str(root),
                run_id=run_id,
                name=name,
                actor=actor,
                num_actors=settings.num_actors,
            )
            for actor in range(settings.num_actors)
        ]

    def start(self) -> None:
        """Wait until every judge is ready. Raises UsageError if it cannot work as configured."""
        for actor, ref in enumerate([each.start.remote() for each in self._actors]):
            self.judge_id = self._calls.get(ref, what=f"start of {self._name}-{actor}", timeout_s=_START_TIMEOUT_S)

    def configure(self, settings: JudgeConfig) -> None:
        """Judge what comes next by these settings."""
        if settings == self._settings:
            return
        for actor, ref in enumerate([each.configure.remote(settings) for each in self._actors]):
            self._calls.get(ref, what=f"configuring {self._name}-{actor}", timeout_s=_START_TIMEOUT_S)
        self._settings = settings

    def build(self, groups: Iterable[GroupShard], *, round_id: int) -> tuple[PairShard, ...]:
        folder = RunDir.round_dir(round_id)
        kwargs = {"verdict_dir": f"{folder}/verdicts", "pair_dir": f"{folder}/pairs"}
        pending: deque[_Judging] = deque()
        shards: list[PairShard] = []
        for place, group in enumerate(groups):
            pending.append(self._submit(place, "build", group, **kwargs))
            while len(pending) > _JUDGES_IN_FLIGHT * len(self._actors):
                shards.append(self._result(pending.popleft()))
        with self._observer.stage(round_id, "judge"):
            shards += [self._result(work) for work in pending]
        self.take_report(round_id)
        return tuple(sorted(shards, key=lambda shard: shard.chunk_id))

    def compare(self, candidate: GroupShard, baseline: GroupShard, *, out_dir: str) -> list[Verdict]:
        work = self._submit(candidate.chunk_id, "compare", candidate, baseline, out_dir=out_dir)
        verdicts: list[Verdict] = self._result(work)
        return verdicts

    def answer(self, shard: GroupShard, *, out_dir: str) -> list[Answer]:
        answers: list[Answer] = self._result(self._submit(shard.chunk_id, "answer", shard, out_dir=out_dir))
        return answers

    def _submit(self, place: int, method: str, *args: Any, **kwargs: Any) -> _Judging:
        actor = place % len(self._actors)
        ref = getattr(self._actors[actor], method).remote(*args, **kwargs)
        return _Judging(ref, place, method, args, kwargs)

    def _result(self, work: _Judging) -> Any:
        for attempt in range(1, _JUDGE_ATTEMPTS + 1):
            try:
                # The judge's own deadlines are those of its calls; a shard takes as many calls as it has groups.
                return self._calls.get(work.ref, what=f"{self._name} on a shard", timeout_s=None)
            except InfraError as error:
                if attempt == _JUDGE_ATTEMPTS:
                    raise
                self._observer.warn(f"{error}; the shard is judged again")
                time.sleep(2.0 ** (attempt - 1))  # Ray may still be bringing the process back
                for actor in self._actors:  # one that has come back knows only the settings that it was made with
                    actor.configure.remote(self._settings)
                work = self._submit(work.place + attempt, work.method, *work.args, **work.kwargs)
        raise AssertionError

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


class RayLearner:
    """The learner as a Ray actor whose training streams its steps back."""

    def __init__(self, run: RunDir, config: RunConfig, observer: Observer) -> None:
        settings = config.learner
        gpus = settings.gpus
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU") else 0
        self._observer, self._settings = observer, settings
        self._calls = Calls(observer)
        self._timeout_s = settings.train_timeout_s
        self._base: PolicyRef | None = None
        self._starting: Any = None
        self._frozen_date = run.file.started_on
        self.actor = (
            _actor(LearnerActor)
            .options(num_cpus=settings.cpus, num_gpus=gpus, max_restarts=-1, runtime_env=_QUIET_THREADS)
            .remote(
                settings=settings,
                run_dir=str(run.root),
                seed=config.seed,
                policy_dtype=config.policy.dtype,
                num_rounds=config.num_rounds,
            )
        )

    def start(self, base: PolicyRef, policy: PolicyRef) -> None:
        """Begin to load this policy, with its state, without waiting for it."""
        self._base = base
        self._starting = self.actor.start.remote(base=base, policy=policy)

    def configure(self, settings: LearnerConfig) -> None:
        """Learn what comes next by these settings."""
        if settings == self._settings:
            return  # the call would wait for the learner to be up, and generation need not
        ref = self.actor.configure.remote(settings)
        self._calls.get(ref, what="configuring the learner", timeout_s=_START_TIMEOUT_S)
        self._settings = settings

    def make_base(self, config: RunConfig, *, source: Path | None, path: str, on_step: OnStep) -> PolicyRef:
        """Make the base policy of `policy.scratch` and `policy.sft`, durably."""
        policy = config.policy
        stream = self.actor.make_base.remote(
            path=path,
            seed=config.seed,
            source=source,
            scratch=policy.scratch,
            sft=policy.sft,
            dtype=policy.dtype,
            chat_template=policy.chat_template,
            chat_template_kwargs=dict(policy.chat_template_kwargs),
            system_prompt=policy.system_prompt,
            frozen_date=self._frozen_date,
        )
        base: PolicyRef = self._last(stream, on_step, what="making the base policy")
        return base

    def train(
        self, *, round_id: int, shards: Sequence[PairShard], policy_in: PolicyRef, on_step: OnStep
    ) -> LearnerUpdate:
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                self._ready()
                stream = self.actor.train.remote(round_id=round_id, shards=list(shards), policy_in=policy_in)
                update: LearnerUpdate = self._last(stream, on_step, what=f"learning of round {round_id}")
                return update
            except InfraError as error:
                if attempt == _MAX_ATTEMPTS:
                    raise
                self._observer.warn(f"{error}; round {round_id} is learnt again from its start")
                assert self._base is not None
                # A process that has come back knows only the settings that it was made with.
                self.actor.configure.remote(self._settings)
                self.start(self._base, policy_in)
        raise AssertionError

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        self._ready()
        ref = self.actor.score.remote(list(sequences), policy=policy)
        logps: list[Logps] = self._calls.get(ref, what="scoring on the learner", timeout_s=self._timeout_s)
        return logps

    def _ready(self) -> None:
        if self._starting is not None:
            with self._observer.stage(None, "start learner"):
                self._calls.get(self._starting, what="start of the learner", timeout_s=_START_TIMEOUT_S)
            self._starting = None

    def _last(self, stream: Any, on_step: OnStep, *, what: str) -> Any:
        for value in self._calls.stream(stream, what=what, timeout_s=self._timeout_s):
            if not isinstance(value, StepMetrics):
                return value
            on_step(value)
        raise InfraError(f"{what} ended without a result; the learner's log is in Ray's log folder")


@dataclass(frozen=True, kw_only=True)
class Started:
    """The stages of a run, and what only who starts them needs to know."""

    cluster: Cluster
    rollout: RayRollout
    learner: RayLearner
    judges: tuple[RayJudge, ...]


def connect(run: RunDir, observer: Observer) -> Started:
    """Start all actors side by side; nothing is waited for."""
    config = run.config
    rollout = RayRollout(run, config, observer)
    learner = RayLearner(run, config, observer)
    judge = RayJudge(run.root, run.run_id, config.judge, observer)
    gold = None
    if config.evaluation.gold is not None:
        gold = RayJudge(run.root, run.run_id, as_judge(config.evaluation.gold), observer, name="gold")

    def configure(changed: RunConfig) -> None:
        judge.configure(changed.judge)
        learner.configure(changed.learner)
        if gold is not None and changed.evaluation.gold is not None:
            gold.configure(as_judge(changed.evaluation.gold))

    return Started(
        cluster=Cluster(rollout=rollout, judge=judge, learner=learner, gold=gold, configure=configure),
        rollout=rollout,
        learner=learner,
        judges=(judge,) if gold is None else (judge, gold),
    )
