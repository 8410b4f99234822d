"""Engines that come and go: asked for, started, brought to the round's policy, and replaced when they are lost."""

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Literal

import ray

from orchestrator.cluster.calls import POLL_S, ActorDied, Calls
from orchestrator.cluster.nodes import Nodes
from orchestrator.observer import Observer
from rollout.config import RolloutConfig
from rollout.errors import InfraError, RondoError, Stopped
from rollout.types import LoadReport, PolicyRef

_DRAIN_POLL_S = 2.0
_MAX_PAUSE_S = 60.0


@dataclass(eq=False)
class Engine:
    """One actor. policy: what it was last told to hold, which is in place once it is ready.

    asked: waits for room in the cluster; starting, loading: on its way to a policy; ready: takes work; leaving: its
    node drains, so that it only finishes what it has; gone: its process was ended. call: what the state waits for.
    """

    index: int
    actor: Any
    call: Any
    start: Any = None
    policy: PolicyRef | None = None
    state: Literal["asked", "starting", "loading", "ready", "leaving", "gone"] = "asked"
    node_id: str = ""
    deadline: float = math.inf

    @property
    def waits_for(self) -> str:
        """What its state waits for, in words."""
        if self.state == "loading" and self.policy is not None:
            return f"weight update of engine {self.index} to v{self.policy.version}"
        return f"{'room for' if self.state == 'asked' else 'start of'} engine {self.index}"


class EnginePool:
    """Up to num_engines engines, of which min_engines are enough to go on; make(index): the actor of one.

    Nothing here waits but wait(): tend() sees what has happened, and is called again and again by who waits.
    """

    def __init__(
        self, make: Callable[[int], Any], settings: RolloutConfig, calls: Calls, observer: Observer, *, room: str
    ) -> None:
        self._make, self._settings, self._calls, self._observer, self._room = make, settings, calls, observer, room
        self._nodes = Nodes()
        self._policy: PolicyRef | None = None
        self._engines: dict[int, Engine] = {}
        self._leaving: list[Engine] = []
        self._failures: dict[int, int] = {}  # of an engine's place, in a row, before it was ready
        self._ask_at = dict.fromkeys(range(settings.num_engines), 0.0)
        self._short_since: float | None = None
        self._looked_at = -math.inf
        self._last_error: Exception = InfraError("no engine was asked for")
        self._ask()  # processes come up and import while there is no policy yet

    @property
    def ready(self) -> list[Engine]:
        """Engines that hold the wanted policy and take work."""
        return [engine for _, engine in sorted(self._engines.items()) if engine.state == "ready"]

    @property
    def pending(self) -> list[Any]:
        """Calls whose answers change what tend() sees."""
        return [engine.call for engine in self._engines.values() if engine.call is not None]

    def want(self, policy: PolicyRef) -> None:
        """Bring every engine to this policy, those that join later too; nothing is waited for."""
        self._policy = policy
        for engine in self._engines.values():
            if engine.start is None:
                self._start(engine, policy)
            elif engine.state == "ready" and engine.policy != policy:
                self._load(engine, policy)
        self._ask()

    def wait(self, num_engines: int) -> None:
        """Wait until so many engines are ready. Raises what tend() raises."""
        while len(self.ready) < num_engines:
            self._observer.check_stop()
            if self.pending:
                ray.wait(self.pending, num_returns=1, timeout=POLL_S)
            else:
                time.sleep(POLL_S)
            self.tend()

    def tend(self, busy: Collection[Engine] = ()) -> None:
        """See who has answered, who is late, whose node drains; end those that left and ask for others in their place.

        busy: engines that have work. Raises InfraError, or what engines failed with, when min_engines are out of reach.
        """
        self._see_answers()
        self._see_deadlines()
        self._see_draining()
        for engine in [engine for engine in self._leaving if engine not in busy]:
            self._end(engine)
        self._ask()
        self._refuse_too_few()

    def lose(self, engine: Engine, error: Exception) -> None:
        """Take an engine out, end its process, and ask for another one in its place."""
        if engine.state == "gone":
            return
        was_leaving, was_ready = engine.state == "leaving", engine.state == "ready"
        self._end(engine)
        if was_leaving:
            return  # another one was asked for when its node began to drain
        failures = 0 if was_ready else self._failures.get(engine.index, 0) + 1
        # What is no failure of a machine will hardly go away, but must be everybody's to end the run.
        self._failures[engine.index] = failures if isinstance(error, InfraError) else self._settings.max_attempts
        self._ask_at[engine.index] = time.monotonic() + (min(2.0**failures, _MAX_PAUSE_S) if failures else 0.0)
        self._last_error = error
        self._observer.warn(f"{error}; engine {engine.index} is replaced")

    def close(self) -> None:
        """End every engine."""
        for engine in [*self._engines.values(), *self._leaving]:
            self._end(engine)

    def mend(self, engine: Engine) -> None:
        """Let an engine that failed, but lives, start again: a broken one has no usable weights and is built anew."""
        if engine.state == "ready" and self._policy is not None:
            self._start(engine, self._policy)

    def _ask(self) -> None:
        for index in [index for index, at in self._ask_at.items() if at <= time.monotonic()]:
            del self._ask_at[index]
            actor = self._make(index)
            engine = self._engines[index] = Engine(index=index, actor=actor, call=actor.node_id.remote())
            if self._policy is not None:
                self._start(engine, self._policy)

    def _start(self, engine: Engine, policy: PolicyRef) -> None:
        """Asked for at once, so that it starts as soon as it has room, though nobody may be tending then."""
        engine.policy, engine.start = policy, engine.actor.start.remote(policy)
        if engine.node_id:
            self._now_starting(engine)

    def _now_starting(self, engine: Engine) -> None:
        engine.state, engine.call = "starting", engine.start
        engine.deadline = time.monotonic() + self._settings.start_timeout_s

    def _load(self, engine: Engine, policy: PolicyRef) -> None:
        engine.state, engine.policy, engine.call = "loading", policy, engine.actor.load.remote(policy)
        engine.deadline = time.monotonic() + self._settings.sync_timeout_s

    def _see_answers(self) -> None:
        asking = {engine.call: engine for engine in self._engines.values() if engine.call is not None}
        if not asking:
            return
        done, _ = ray.wait(list(asking), num_returns=len(asking), timeout=0)
        for ref in done:
            engine = asking[ref]
            try:
                answer = self._calls.get(ref, what=engine.waits_for, timeout_s=None)
            except Stopped:
                raise
            except (RondoError, ray.exceptions.RayError) as error:
                self._not_ready(engine, error)
            else:
                self._one_further(engine, answer)

    def _one_further(self, engine: Engine, answer: Any) -> None:
        if engine.state == "asked":
            engine.node_id, engine.call = answer, None
            if engine.start is not None:
                self._now_starting(engine)
            return
        if isinstance(answer, LoadReport):
            self._observer.record(
                "sync",
                engine=engine.index,
                version=answer.version,
                road=answer.road,
                load_s=answer.seconds,
                size_bytes=answer.size_bytes,
            )
        engine.state, engine.call, engine.deadline = "ready", None, math.inf
        self._failures.pop(engine.index, None)
        if self._policy is not None and engine.policy != self._policy:
            self._load(engine, self._policy)

    def _not_ready(self, engine: Engine, error: Exception) -> None:
        outdated = engine.state != "asked" and engine.policy != self._policy
        if outdated and self._policy is not None and not isinstance(error, ActorDied):
            self._start(engine, self._policy)  # what it failed at is not wanted any more
        else:
            self.lose(engine, error)

    def _see_deadlines(self) -> None:
        now = time.monotonic()
        for engine in [engine for engine in self._engines.values() if engine.deadline < now]:
            loading = engine.state == "loading"
            limit_s = self._settings.sync_timeout_s if loading else self._settings.start_timeout_s
            name = "sync_timeout_s" if loading else "start_timeout_s"
            self.lose(engine, InfraError(f"{engine.waits_for} was not done within rollout.{name} = {limit_s:g} s"))

    def _see_draining(self) -> None:
        if time.monotonic() - self._looked_at < _DRAIN_POLL_S:
            return
        draining = self._nodes.draining()
        self._looked_at = time.monotonic()
        for engine in [engine for engine in self._engines.values() if engine.node_id in draining]:
            self._observer.warn(f"the node of engine {engine.index} drains; it takes no more work and is replaced")
            engine.state, engine.call, engine.deadline = "leaving", None, math.inf
            self._leaving.append(self._engines.pop(engine.index))
            self._ask_at[engine.index] = 0.0

    def _end(self, engine: Engine) -> None:
        if engine.state == "leaving":
            self._leaving.remove(engine)
        else:
            del self._engines[engine.index]
        engine.state = "gone"
        ray.kill(engine.actor)

    def _refuse_too_few(self) -> None:
        settings, now = self._settings, time.monotonic()
        num_hopeful = sum(self._failures.get(n, 0) < settings.max_attempts for n in range(settings.num_engines))
        if len(self.ready) < settings.min_engines and num_hopeful < settings.min_engines:
            raise self._last_error
        no_room = [engine for engine in self._engines.values() if not engine.node_id]
        # Who has room, or may ask for it again, has deadlines and a number of attempts of its own.
        if settings.num_engines - len(no_room) >= settings.min_engines:
            self._short_since = None
            return
        self._short_since = self._short_since or now
        if now - self._short_since > settings.start_timeout_s:
            raise InfraError(
                f"{len(self.ready)} engines are ready, expected at least rollout.min_engines = {settings.min_engines}; "
                f"waited {settings.start_timeout_s:g} s for {', '.join(engine.waits_for for engine in no_room)}; "
                f"{self._room}: add nodes, or lower that"
            )
