"""Engines as Ray actors."""

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from orchestrator.cluster.calls import POLL_S, QUIET_THREADS, Calls, actor_of
from orchestrator.config import RunConfig
from orchestrator.observer import Observer
from orchestrator.rundir import RunDir
from rollout.actor import RolloutActor
from rollout.errors import InfraError
from rollout.shards import find_shards
from rollout.types import GroupShard, LoadReport, Logps, PolicyRef, PromptChunk, Sampling, TokenSequence


@dataclass
class _InFlight:
    chunk: PromptChunk
    engine: int
    submitted: float


class RayRollout:
    """Engines as Ray actors; chunks go to whichever engine has room."""

    def __init__(self, run: RunDir, config: RunConfig, observer: Observer) -> None:
        settings = config.engines
        self._run, self._settings, self._observer = run, settings, observer
        self._calls = Calls(observer)
        gpus = settings.gpus_per_engine
        if gpus is None:
            gpus = settings.tensor_parallel_size if ray.cluster_resources().get("GPU") else 0
        make = actor_of(RolloutActor).options(
            num_cpus=settings.cpus_per_engine, num_gpus=gpus, max_restarts=-1, runtime_env=QUIET_THREADS
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
            self._tell_queues(waiting, in_flight)
            done, _ = ray.wait(list(in_flight), num_returns=1, timeout=POLL_S)
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
                self._observer.record(
                    "generated",
                    engine=work.engine,
                    chunk_id=shard.chunk_id,
                    num_tokens=shard.num_tokens,
                    num_groups=shard.num_groups,
                    seconds=time.monotonic() - work.submitted,
                )
                self._tell_queues(waiting, in_flight)
                yield shard

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        self.load(policy)
        logps: list[Logps] = self._calls.get(
            self._engines[0].score.remote(list(sequences)),
            what="scoring on engine 0",
            timeout_s=self._settings.generate_timeout_s,
        )
        return logps

    def _tell_queues(self, waiting: deque[PromptChunk], in_flight: dict[Any, _InFlight]) -> None:
        self._observer.tell("queue", queue="waiting", depth=len(waiting))
        self._observer.tell("queue", queue="generating", depth=len(in_flight))

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
            if time.monotonic() - work.submitted > limit + POLL_S * 20:
                raise InfraError(f"engine {work.engine} has not finished chunk {work.chunk.chunk_id} in {limit:.0f} s")

    def _poll_progress(self) -> None:
        for index, engine in enumerate(self._engines):
            if self._calls.get(engine.progress.remote(), what=f"progress of engine {index}", timeout_s=60).num_tokens:
                self._observer.first_token()
