"""What the page does by itself: rounds seal at their deadline, and a webhook hears of it."""

import logging
import threading
from collections.abc import Callable

_LOG = logging.getLogger(__name__)
_LONGEST_PAUSE_S = 30.0


class Repeated:
    """Calls `act` every `interval_s` seconds in a thread of its own.

    A failure is logged once until the next success, and the pause doubles meanwhile, up to half a minute.
    """

    def __init__(self, name: str, act: Callable[[], object], *, interval_s: float = 1.0) -> None:
        self._name = name
        self._act = act
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin, with the first call at once."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End, after the call under way."""
        self._stop.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        pause_s = self._interval_s
        while not self._stop.is_set():
            try:
                self._act()
            except Exception as error:
                if pause_s == self._interval_s:
                    _LOG.warning("%s failed, and is tried again: %s: %s", self._name, type(error).__name__, error)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                if pause_s != self._interval_s:
                    _LOG.info("%s works again", self._name)
                pause_s = self._interval_s
            self._stop.wait(pause_s)
