"""What keeps requests off an endpoint: rates that it allows, and a circuit breaker while it is down."""

import asyncio
from collections.abc import Awaitable, Callable

from rollout.errors import DataError

Sleep = Callable[[float], Awaitable[None]]
_BURST_S = 1.0
_FIRST_COOL_DOWN_S = 0.5


class Pacer:
    """Spreads a cost over time, so that no more than `per_minute` of it passes in a minute.

    A token bucket that holds one second's worth, kept as the moment at which it is full again (GCRA): what is asked
    for is always granted, later; so a request larger than the bucket passes too, and the order is kept.
    """

    def __init__(self, *, per_minute: float) -> None:
        self._seconds_each = 60.0 / per_minute
        self._free_at_s = 0.0

    def wait_s(self, cost: float, *, now_s: float) -> float:
        """Seconds until this cost may pass; it is taken as passed."""
        start_s = max(self._free_at_s, now_s - _BURST_S)
        self._free_at_s = start_s + cost * self._seconds_each
        return max(0.0, start_s - now_s)

    def settle(self, surplus: float) -> None:
        """Give back what was taken but not used; negative where more was used."""
        self._free_at_s -= surplus * self._seconds_each


class Breaker:
    """Opens after `threshold` failures in a row; then one request at a time probes, after growing pauses.

    After `max_probes` failed probes in a row the endpoint is given up: whoever waits, or comes later, fails at once,
    until the last pause is over or `revive` is called.
    """

    def __init__(self, *, threshold: int, max_probes: int, max_pause_s: float) -> None:
        self._threshold, self._max_probes, self._max_pause_s = threshold, max_probes, max_pause_s
        self._num_failures = 0
        self._num_probes = 0
        self._probing = False
        self._retry_at_s = 0.0
        self._last = ""
        self._changed = asyncio.Event()

    async def admit(self, deadline_s: float) -> bool:
        """Wait until a request may be sent; True if it is the probe. Raises DataError: endpoint_failed or deadline."""
        clock = asyncio.get_running_loop().time
        while self._num_failures >= self._threshold:
            now_s = clock()
            if not self._probing and now_s >= self._retry_at_s:
                self._probing = True
                return True
            if self._num_probes >= self._max_probes:
                raise DataError("endpoint_failed", f"{self._num_failures} failures in a row; last: {self._last}")
            if now_s >= deadline_s:
                raise DataError("deadline", f"judge.stage_timeout_s passed; last failure: {self._last}")
            changed, until_s = self._changed, deadline_s if self._probing else min(deadline_s, self._retry_at_s)
            try:
                async with asyncio.timeout_at(until_s):
                    await changed.wait()
            except TimeoutError:
                pass
        return False

    def succeeded(self) -> None:
        """The endpoint lives."""
        if self._num_failures >= self._threshold:
            self._wake()
        self._num_failures = self._num_probes = 0
        self._probing = False

    def failed(self, why: str, *, probe: bool) -> None:
        """A request found no working endpoint."""
        self._last = why
        self._num_failures += 1
        if self._num_failures < self._threshold or (self._num_failures > self._threshold and not probe):
            return  # still closed; or sent before it opened
        if probe:
            self._num_probes += 1
            self._probing = False
        pause_s = min(self._max_pause_s, _FIRST_COOL_DOWN_S * 2.0 ** min(self._num_probes, 30))
        self._retry_at_s = asyncio.get_running_loop().time() + pause_s
        self._wake()

    def abandoned(self) -> None:
        """The probe ended without saying anything about the endpoint: another one may go."""
        self._probing = False
        self._wake()

    def revive(self) -> None:
        """Other work begins, which may fare better: an endpoint that was given up is probed at once."""
        if self._num_probes >= self._max_probes:
            self._num_probes, self._retry_at_s = 0, 0.0
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
