"""An engine that is stepped, on a thread of its own: requests in, finished outputs out as futures."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, Generic, Protocol, TypeVar

from rollout.errors import InfraError


class Steppable(Protocol):
    """What the thread needs of an engine. Outputs of step() have `request_id` and `finished`."""

    def has_unfinished_requests(self) -> bool: ...

    def step(self) -> list[Any]: ...

    def abort_request(self, request_ids: list[str]) -> None: ...


EngineT = TypeVar("EngineT", bound=Steppable)


class Stepper(Generic[EngineT]):
    """Builds and steps one engine on one thread, which all use of the engine passes through.

    An exception that leaves the thread fails every future that is pending, and every later call, with InfraError: a
    thread never dies silently.
    """

    def __init__(self, build: Callable[[], EngineT], *, shut_down: Callable[[EngineT], None], name: str) -> None:
        self.ready: Future[None] = _running_future()
        self._name = name
        self._shut_down = shut_down
        self._commands: SimpleQueue[tuple[Callable[[EngineT], None], Future[Any]] | None] = SimpleQueue()
        self._requests: dict[str, tuple[Callable[[EngineT], None], Future[Any]]] = {}
        self._lock = threading.Lock()
        self._ended: InfraError | None = None
        self._thread = threading.Thread(target=self._run, args=(build,), name=name, daemon=True)
        self._thread.start()

    @property
    def ended(self) -> InfraError | None:
        """Why the thread takes no more work; None while it does."""
        return self._ended

    def submit(self, request_id: str, add: Callable[[EngineT], None]) -> Future[Any]:
        """Add a request to the engine; the future holds its finished output.

        An exception of `add` is the request's own failure and nobody else's.
        """

        def command(engine: EngineT) -> None:
            self._requests[request_id] = (add, future)
            try:
                add(engine)
            except Exception as error:  # handed to the one who asked
                del self._requests[request_id]
                future.set_exception(error)

        return self._enqueue(command, future := _running_future())

    def cancel(self, request_id: str) -> None:
        """Take a request out of the engine; its future stays unfinished, so nobody may be waiting for it."""

        def command(engine: EngineT) -> None:
            if self._requests.pop(request_id, None) is not None:
                engine.abort_request([request_id])

        self._enqueue(command, _running_future())

    def call(self, function: Callable[[EngineT], Any]) -> Future[Any]:
        """Run a function between two steps. If it raises, the engine is not to be trusted: the thread ends."""

        def command(engine: EngineT) -> None:
            future.set_result(function(engine))

        return self._enqueue(command, future := _running_future())

    def restart_requests(self, engine: EngineT, prefix: str) -> None:
        """Begin anew with the requests whose id has this prefix. For use inside call()."""
        for request_id, (add, _) in self._requests.items():
            if request_id.startswith(prefix):
                engine.abort_request([request_id])
                add(engine)

    def close(self, timeout_s: float) -> bool:
        """End the thread after its current step; whether it ended in time."""
        self._commands.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _enqueue(self, command: Callable[[EngineT], None], future: Future[Any]) -> Future[Any]:
        with self._lock:
            if self._ended is None:
                self._commands.put((command, future))
            else:
                future.set_exception(self._ended)
        return future

    def _run(self, build: Callable[[], EngineT]) -> None:
        engine: EngineT | None = None
        try:
            engine = build()
            self.ready.set_result(None)
            self._step_until_closed(engine)
            reason = InfraError(f"{self._name} was closed")
        except BaseException as error:  # translated for everyone who waits
            logging.getLogger(__name__).exception("%s failed", self._name)
            reason = InfraError(f"{self._name} failed, {type(error).__name__}: {error}")
            # Without its frames, which would keep the engine's memory alive.
            reason.__cause__ = error.with_traceback(None)
        self._end(reason)
        if engine is not None:
            self._shut_down(engine)

    def _step_until_closed(self, engine: EngineT) -> None:
        while True:
            # Blocks while there is nothing to do; otherwise takes what has arrived during the last step.
            while not self._commands.empty() or not engine.has_unfinished_requests():
                item = self._commands.get()
                if item is None:
                    return
                command, future = item
                try:
                    command(engine)
                except BaseException as error:
                    future.set_exception(error)
                    raise
            for output in engine.step():
                if output.finished and output.request_id in self._requests:
                    self._requests.pop(output.request_id)[1].set_result(output)

    def _end(self, reason: InfraError) -> None:
        with self._lock:
            self._ended = reason
            waiting = [self.ready, *(future for _, future in self._requests.values())]
            self._requests.clear()
            while not self._commands.empty():
                item = self._commands.get()
                if item is not None:
                    waiting.append(item[1])
        for future in waiting:
            if not future.done():
                future.set_exception(reason)


def _running_future() -> Future[Any]:
    # A running future cannot be cancelled, so that the thread may set its result whatever the waiter did meanwhile.
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future
