"""Chunks in, durable shards out, over whichever engines are there."""

import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ray

from orchestrator.cluster.calls import POLL_S, ActorDied, Calls
from orchestrator.cluster.chunk_queue import ChunkQueue, Task
from orchestrator.cluster.engine_pool import Engine, EnginePool
from orchestrator.observer import Observer
from rollout.errors import InfraError
from rollout.types import GroupShard, PolicyRef, Sampling

# A worker gives up by itself at its deadline; one that has not even done that hangs.
_GRACE_S = 10.0


@dataclass(frozen=True, eq=False)
class _Flight:
    task: Task
    engine: Engine
    submitted: float = field(default_factory=time.monotonic)


class Dispatch:
    """Hands the tasks of a queue to engines of the pool until all are done; the pool wants `policy` by now."""

    def __init__(
        self,
        queue: ChunkQueue,
        pool: EnginePool,
        calls: Calls,
        observer: Observer,
        *,
        policy: PolicyRef,
        sampling: Sampling,
        timeout_s: float,
    ) -> None:
        self._queue, self._pool, self._calls, self._observer = queue, pool, calls, observer
        self._how = (policy, sampling)
        self._timeout_s = timeout_s
        self._flights: dict[Any, _Flight] = {}

    def shards(self) -> Iterator[GroupShard]:
        """Shards in the order in which they finish. Raises InfraError when a task or the pool is out of attempts."""
        while self._queue or self._flights:
            self._submit()
            self._tell_queues()
            for ref in self._landed():
                shard = self._settle(ref) if ref in self._flights else None
                if shard is not None:
                    self._tell_queues()
                    yield shard

    def _submit(self) -> None:
        in_flight: dict[Engine, list[Task]] = {engine: [] for engine in self._pool.ready}
        for flight in self._flights.values():
            if flight.engine in in_flight:
                in_flight[flight.engine].append(flight.task)
        for engine, task in self._queue.assign(in_flight):
            method = engine.actor.generate if task.trial_of is None else engine.actor.try_out
            self._flights[method.remote(task.chunk, *self._how)] = _Flight(task, engine)

    def _landed(self) -> list[Any]:
        """Wait a little for anything to happen, let the pool see to its engines, and tell which tasks are over."""
        waited_for = [*self._flights, *self._pool.pending]
        if waited_for:
            ray.wait(waited_for, num_returns=1, timeout=POLL_S)
        else:
            time.sleep(POLL_S)
        self._observer.check_stop()
        if not self._observer.saw_first_token:
            self._poll_progress()
        done = ray.wait(list(self._flights), num_returns=len(self._flights), timeout=0)[0] if self._flights else []
        self._pool.tend(busy={flight.engine for flight in self._flights.values()})
        self._lose_hung({*done})
        self._take_back_from_lost({*done})
        return list(done)

    def _settle(self, ref: Any) -> GroupShard | None:
        flight = self._flights.pop(ref)
        task, engine = flight.task, flight.engine
        try:
            shard: GroupShard | None = self._calls.get(ref, what=f"{task} on engine {engine.index}", timeout_s=None)
        except ActorDied as error:
            self._engine_died(flight, error)
            return None
        except InfraError as error:
            self._observer.warn(f"{error}; {task} is tried again")
            self._queue.failed(task, error)
            self._pool.mend(engine)
            return None
        self._queue.finished(task)
        if shard is not None:
            self._observer.advance(len(task.chunk.prompts))
            self._observer.record(
                "generated",
                engine=engine.index,
                chunk_id=shard.chunk_id,
                num_tokens=shard.num_tokens,
                num_groups=shard.num_groups,
                seconds=time.monotonic() - flight.submitted,
            )
        return shard

    def _engine_died(self, flight: _Flight, error: ActorDied) -> None:
        tasks = [flight.task, *self._take_back(flight.engine)]
        if flight.engine.state in ("leaving", "gone"):  # its node went, or we ended it
            for task in tasks:
                self._queue.put_back(task)
        else:
            self._queue.crashed(tasks, error)
        self._pool.lose(flight.engine, error)

    def _lose_hung(self, done: set[Any]) -> None:
        late = defaultdict(list)
        for ref, flight in self._flights.items():
            if ref not in done and time.monotonic() - flight.submitted > self._timeout_s + _GRACE_S:
                late[flight.engine].append(flight.task)
        for engine, tasks in late.items():
            error = InfraError(
                f"engine {engine.index} hangs: it has not finished {tasks[0]} within rollout.generate_timeout_s = "
                f"{self._timeout_s:g} s"
            )
            self._pool.lose(engine, error)
            for task in self._take_back(engine):
                self._queue.failed(task, error) if task in tasks else self._queue.put_back(task)

    def _take_back_from_lost(self, done: set[Any]) -> None:
        for engine in {flight.engine for ref, flight in self._flights.items() if ref not in done}:
            if engine.state == "gone":
                for task in self._take_back(engine):
                    self._queue.put_back(task)

    def _take_back(self, engine: Engine) -> list[Task]:
        """What is in flight on an engine, which is not waited for any more."""
        refs = [ref for ref, flight in self._flights.items() if flight.engine is engine]
        return [self._flights.pop(ref).task for ref in refs]

    def _tell_queues(self) -> None:
        self._observer.tell("queue", queue="waiting", depth=len(self._queue))
        self._observer.tell("queue", queue="generating", depth=len(self._flights))

    def _poll_progress(self) -> None:
        refs = [engine.actor.progress.remote() for engine in self._pool.ready]
        done = ray.wait(refs, num_returns=len(refs), timeout=POLL_S)[0] if refs else []
        for ref in done:
            try:
                if self._calls.get(ref, what="progress of an engine", timeout_s=None).num_tokens:
                    self._observer.first_token()
            except InfraError:
                return  # what it has in flight tells of it
