"""Seconds in which this process really ran: a machine that stands still is no fault of the run."""

import time

_LONGEST_TICK_S = 2.0


class Clock:
    """seconds grows from tick() to tick(); where two of them lie far apart, paused_s does."""

    def __init__(self) -> None:
        self.seconds, self.paused_s = 0.0, 0.0
        self._last = time.monotonic()

    def tick(self) -> float:
        now = time.monotonic()
        passed, self._last = now - self._last, now
        if passed > _LONGEST_TICK_S:
            self.paused_s += passed
        else:
            self.seconds += passed
        return self.seconds
