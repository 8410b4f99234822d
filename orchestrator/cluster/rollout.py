"""Engines as Ray actors."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import ray

from orchestrator.cluster.calls import QUIET_THREADS, Calls, actor_of
from orchestrator.cluster.chunk_queue import ChunkQueue
from orchestrator.cluster.dispatch import Dispatch
from orchestrator.cluster.engine_pool import EnginePool
from orchestrator.cluster.memory import peak_memory
from orchestrator.config import RunConfig
from orchestrator.observer import Observer
from orchestrator.placement import engine_gpus
from orchestrator.rundir import RunDir
from rollout.actor import RolloutActor
from rollout.errors import InfraError
from rollout.shards import find_shards
from rollout.types import ENGINE_CRASHED, GroupShard, Logps, PolicyRef, PromptChunk, Sampling, TokenSequence


class RayRollout:
    """Engines as Ray actors; chunks go to whichever engine has room."""

    def __init__(self, run: RunDir, config: RunConfig, observer: Observer, *, actor: Any = RolloutActor) -> None:
        settings = config.engines
        self._run, self._settings, self._observer = run, settings, observer
        self._calls = Calls(observer)
        self._ever_ready = False
        self._quarantined: set[str] = set()  # prompts that have crashed engines, which later chunks leave out
        gpus = engine_gpus(settings, has_gpus=bool(ray.cluster_resources().get("GPU")))
        # An engine that died is replaced by the pool, which knows what its successor has to be told.
        configured = actor_of(actor).options(
            num_cpus=settings.cpus_per_engine, num_gpus=gpus, max_restarts=0, runtime_env=QUIET_THREADS
        )

        def make(index: int) -> Any:
            return configured.remote(
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

        room = f"an engine takes {settings.cpus_per_engine:g} CPUs and {gpus:g} GPUs"
        self._pool = EnginePool(make, settings, self._calls, observer, room=room)

    def start(self, policy: PolicyRef) -> None:
        """Begin to start every engine with this policy, without waiting for it."""
        self._pool.want(policy)

    def load(self, policy: PolicyRef, *, num_engines: int | None = None) -> None:
        """Bring the engines to this policy; returns when rollout.min_engines, or num_engines, of them hold it."""
        num_engines = num_engines or self._settings.min_engines
        self._pool.want(policy)
        if len(self._pool.ready) < num_engines:
            with self._observer.stage(None, "sync" if self._ever_ready else "start engines"):
                self._pool.wait(num_engines)
        self._ever_ready = True

    def generate(self, chunks: Sequence[PromptChunk], *, policy: PolicyRef, sampling: Sampling) -> Iterator[GroupShard]:
        finished = {s.chunk_id: s for c in chunks[:1] for s in find_shards(self._run.root, c.shard_dir, GroupShard)}
        for chunk in chunks:
            if chunk.chunk_id in finished:
                self._observer.advance(len(chunk.prompts))
                yield self._noted(finished[chunk.chunk_id])
        queue = ChunkQueue(
            [self._without_quarantined(chunk) for chunk in chunks if chunk.chunk_id not in finished],
            max_attempts=self._settings.max_attempts,
            shards_in_flight=self._settings.shards_in_flight,
            warn=self._observer.warn,
        )
        if not queue:
            return
        self.load(policy)
        dispatch = Dispatch(
            queue,
            self._pool,
            self._calls,
            self._observer,
            policy=policy,
            sampling=sampling,
            timeout_s=self._settings.generate_timeout_s,
        )
        yield from map(self._noted, dispatch.shards())

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        for attempt in range(1, self._settings.max_attempts + 1):
            self.load(policy)
            engine = self._pool.ready[0]
            try:
                logps: list[Logps] = self._calls.get(
                    engine.actor.score.remote(list(sequences)),
                    what=f"scoring on engine {engine.index}",
                    timeout_s=self._settings.generate_timeout_s,
                )
            except InfraError as error:
                if attempt == self._settings.max_attempts:
                    raise
                self._pool.lose(engine, error)
            else:
                return logps
        raise AssertionError

    def peak_memory(self) -> dict[str, dict[str, int]]:
        """The most that each engine's process has taken, in bytes."""
        return peak_memory(self._calls, {f"engine {engine.index}": engine.actor for engine in self._pool.ready})

    def close(self) -> None:
        """End every engine, so that others have their room."""
        self._pool.close()

    def _noted(self, shard: GroupShard) -> GroupShard:
        self._quarantined.update(shard.rejected.get(ENGINE_CRASHED, ()))
        return shard

    def _without_quarantined(self, chunk: PromptChunk) -> PromptChunk:
        return replace(chunk, quarantined=frozenset(one.prompt_id for one in chunk.prompts) & self._quarantined)
