"""Calls into the user's code: a deadline on each, and whatever goes wrong is a DataError with its reason."""

import asyncio
import inspect
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from rollout.errors import DataError

_DETAIL_LENGTH = 500
_Lane = SimpleQueue["_Call | None"]


@dataclass(eq=False, kw_only=True)
class _Call:
    work: Callable[[], Any]
    future: asyncio.Future[Any]
    lane: _Lane
    started_s: float | None = None


class Caller:
    """Runs plain functions one after the other on a thread of their own, and coroutines side by side.

    A plain call that misses its deadline cannot be stopped: its thread is left behind and another one goes on.
    """

    def __init__(self, *, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lane: _Lane | None = None

    async def call(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """What the function returned. Raises DataError: judge_raised or judge_timeout."""
        if inspect.iscoroutinefunction(function):
            return await self._awaited(_started(function, args, kwargs))
        result = await self._on_thread(lambda: function(*args, **kwargs))
        return await self._awaited(result) if inspect.isawaitable(result) else result

    async def _awaited(self, awaitable: Awaitable[Any]) -> Any:
        task = asyncio.ensure_future(_contain_exit(awaitable))
        try:
            await asyncio.wait({task}, timeout=self._timeout_s)
            if not task.done():
                raise self._late()
        finally:
            task.cancel()
        if task.cancelled():
            raise DataError("judge_raised", "CancelledError: it cancelled itself")
        error = task.exception()
        if error is not None:
            raise _raised(error) from error
        return task.result()

    async def _on_thread(self, work: Callable[[], Any]) -> Any:
        if self._lane is None:
            self._lane = _open_lane()
        loop = asyncio.get_running_loop()
        call = _Call(work=work, future=loop.create_future(), lane=self._lane)
        self._lane.put(call)
        timer = loop.call_later(self._timeout_s, self._expire, call)
        try:
            return await call.future
        finally:
            timer.cancel()

    def _expire(self, call: _Call) -> None:
        """Give a call up that ran for too long; one that still queues or has only just begun gets its full time."""
        if call.future.done():
            return
        now_s = time.monotonic()
        left_s = self._timeout_s - (now_s - call.started_s) if call.started_s is not None else self._timeout_s
        if left_s > 0.0:
            call.future.get_loop().call_later(max(left_s, 0.001), self._expire, call)
            return
        call.future.set_exception(self._late())
        if call.lane is self._lane:
            self._lane = _move(call.lane)

    def _late(self) -> DataError:
        return DataError("judge_timeout", f"no answer after judge.timeout_s = {self._timeout_s:g} s")


def _open_lane() -> _Lane:
    lane: _Lane = SimpleQueue()
    # A daemon, so that a call that never returns does not keep the process alive.
    threading.Thread(target=_serve, args=(lane,), name="judge", daemon=True).start()
    return lane


def _move(stuck: _Lane) -> _Lane:
    lane = _open_lane()
    try:
        while True:
            call = stuck.get_nowait()
            if call is not None:
                call.lane = lane
            lane.put(call)
    except Empty:
        stuck.put(None)  # the thread left behind ends when its call does
    return lane


def _serve(lane: _Lane) -> None:
    while (call := lane.get()) is not None:
        if call.future.done():  # cancelled while it queued
            continue
        call.started_s = time.monotonic()
        result, error = None, None
        try:
            result = call.work()
        except BaseException as raised:  # an exit of the user's code must not end the thread either
            error = _raised(raised)
        try:
            call.future.get_loop().call_soon_threadsafe(_settle, call.future, result, error)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


def _settle(future: asyncio.Future[Any], result: Any, error: DataError | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


async def _started(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return await function(*args, **kwargs)  # in here, so that wrong arguments are an error of the task


async def _contain_exit(awaitable: Awaitable[Any]) -> Any:
    try:
        return await awaitable
    except SystemExit as error:  # left alone it would end the event loop
        raise _raised(error) from error


def _raised(error: BaseException) -> DataError:
    if isinstance(error, DataError) and error.reason == "judge_raised":
        return error
    try:
        text = str(error)
    except Exception:
        text = "(its message cannot be shown)"
    return DataError("judge_raised", f"{type(error).__name__}: {text}"[:_DETAIL_LENGTH])
