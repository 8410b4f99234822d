"""How often somebody may ask: token buckets in memory, for as many as ask at once."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

_MOST = 10_000  # the one that asked longest ago is forgotten first


@dataclass(frozen=True, kw_only=True)
class Rate:
    """`burst` at once, then `per_s` a second."""

    burst: float
    per_s: float


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one person, address or name may do; of a body, what is read of it."""

    size_bytes: int = 65_536
    body_s: float = 30.0
    person: Rate = Rate(burst=200, per_s=20)
    # A wrong password costs one of each; a right one costs nothing. A whole team may sit behind one address.
    address: Rate = Rate(burst=40, per_s=0.5)
    name_at_address: Rate = Rate(burst=6, per_s=1 / 30)
    name: Rate = Rate(burst=60, per_s=1 / 30)
    num_hashing: int = 1  # argon2 takes 64 MiB and four threads each, which labels would feel
    num_waiting: int = 256


class Buckets:
    """One bucket a key. Threads may share them."""

    def __init__(self, rate: Rate, clock: Callable[[], float]) -> None:
        self._rate = rate
        self._clock = clock
        self._left: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()
        self._mutex = threading.Lock()

    def take(self, key: Hashable) -> float:
        """0.0 where one more is fine, else the seconds until it is."""
        with self._mutex:
            now = self._clock()
            left, since = self._left.pop(key, (self._rate.burst, now))
            left = min(self._rate.burst, left + max(now - since, 0.0) * self._rate.per_s)
            wait_s = 0.0 if left >= 1 else (1 - left) / self._rate.per_s
            self._left[key] = (left if wait_s else left - 1, now)
            if len(self._left) > _MOST:
                self._left.popitem(last=False)
            return wait_s

    def give_back(self, key: Hashable) -> None:
        """What take took was not needed."""
        with self._mutex:
            left, since = self._left.get(key, (self._rate.burst, self._clock()))
            self._left[key] = (min(self._rate.burst, left + 1), since)
