"""Calls of actors: waited for in short slices, with Ray's errors translated."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from orchestrator.observer import Observer
from rollout.errors import DiskFullError, InfraError, RondoError, is_disk_full

POLL_S = 0.5
_MEANWHILE_S = 3.0
START_TIMEOUT_S = 900.0
# Threads that wait spin a little and then sleep: spinning for long starves whoever else is on the machine, the next
# stage above all (a step of the quickstart took 20 times as long), and not spinning at all costs half the speed.
QUIET_THREADS = {"env_vars": {"GOMP_SPINCOUNT": "20000"}}


class ActorDied(InfraError):
    """The process behind an actor is gone, or out of reach."""


class Calls:
    """Waits for remote results in short slices, so that a stop is noticed, and translates Ray's errors."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer

    def get(
        self,
        ref: Any,
        *,
        what: str,
        timeout_s: float | None,
        meanwhile: Callable[[], None] | None = None,
        watch: Callable[[], None] | None = None,
    ) -> Any:
        """The result. Our own errors come back as themselves, a dead process as ActorDied, a deadline as InfraError,
        and a disk without room as DiskFullError.

        meanwhile is called now and then for as long as it takes; watch in every slice, to raise what ends the wait.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        told = time.monotonic()
        while True:
            self._observer.check_stop()
            try:
                return ray.get(ref, timeout=POLL_S)
            except ray.exceptions.GetTimeoutError as error:
                if watch is not None:
                    watch()
                if meanwhile is not None and time.monotonic() - told > _MEANWHILE_S:
                    meanwhile()
                    told = time.monotonic()
                if deadline is not None and time.monotonic() > deadline:
                    raise InfraError(
                        f"{what} did not answer within {timeout_s:.0f} s; its log is in Ray's log folder"
                    ) from error
            except RayTaskError as error:
                if isinstance(error.cause, RondoError):
                    raise error.cause from None
                if is_disk_full(error.cause):
                    raise DiskFullError(
                        f"{what}: {error.cause}; free some space, and the same command resumes"
                    ) from error
                raise
            except RayActorError as error:
                raise ActorDied(f"{what}: its process died ({str(error).splitlines()[0]})") from error
            except RayError as error:
                raise InfraError(f"{what}: {str(error).splitlines()[0]}") from error

    def stream(
        self, generator: Any, *, what: str, timeout_s: float, watch: Callable[[], None] | None = None
    ) -> Iterator[Any]:
        """The results of a streaming task, each awaited for at most timeout_s; watch as in `get`."""
        started = time.monotonic()
        while True:
            self._observer.check_stop()
            ready, _ = ray.wait([generator], timeout=POLL_S)
            if ready:
                try:
                    ref = next(generator)
                except StopIteration:
                    return
                yield self.get(ref, what=what, timeout_s=timeout_s)
                started = time.monotonic()
                continue
            if watch is not None:
                watch()
            if time.monotonic() - started > timeout_s:
                raise InfraError(f"{what} did not answer within {timeout_s:.0f} s; its log is in Ray's log folder")


def actor_of(decorated: Any) -> Any:
    """What @ray.remote makes of a class, which type checkers take for the class itself."""
    return decorated
