"""One driver a run: a lock file with a heartbeat, for machines that share nothing but the run directory.

Each attempt makes the file of its number, `lock/NNNNNN.json`, and renews it. Whoever comes second watches: a file that
is renewed belongs to a driver that lives, one that is not renewed for `timeout_s` to one that is gone, and then the
next number may be made, by one of all who wait. No clocks are compared. A driver that was only held up finds the
higher number before its next commit (rollout.attempt).
"""

import dataclasses
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from pydantic import TypeAdapter, ValidationError

from rollout.errors import UsageError
from rollout.shards import Folder, Storage, attempt_file, newest_attempt, work_for

BEATS_PER_TIMEOUT = 6
_SIZE_BYTES = 1024


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a run. machine tells hosts of one name, and containers of one host, apart; process_started and pid tell
    processes apart. beat counts renewals; renewed_at is the owner's clock, for people and for its own machine."""

    host: str
    pid: int
    machine: str
    process_started: float
    timeout_s: float
    beat: int = 0
    renewed_at: float = 0.0
    released: bool = False

    @property
    def is_here(self) -> bool:
        return self.machine == _machine()

    @property
    def is_dead(self) -> bool:
        """Whether it surely lives no more, which only its own machine knows."""
        return self.is_here and not _lives(self.pid, self.process_started)

    @property
    def is_young(self) -> bool:
        """Whether it was renewed just now, by a clock that is also ours."""
        return self.is_here and 0 <= time.time() - self.renewed_at < 2 * self.timeout_s / BEATS_PER_TIMEOUT

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


_OWNER = TypeAdapter(Owner)
_UNKNOWN = Owner(host="unknown host", pid=0, machine="", process_started=0.0, timeout_s=0.0)


class DriverLock:
    """A run that this process holds, until `release`; a thread renews it."""

    def __init__(self, storage: Storage, root: Path, number: int, owner: Owner) -> None:
        self.number = number
        self._storage, self._root, self._owner = storage, root, owner
        self._ended = threading.Event()
        self._when_lost: list[Callable[[str], None]] = []
        self._thread = threading.Thread(target=self._renew, name="driver lock", daemon=True)
        work_for(root, number)
        self._thread.start()

    def when_lost(self, call: Callable[[str], None]) -> None:
        """Have this called, in the lock's thread, once another driver has taken the run over."""
        self._when_lost.append(call)

    def release(self) -> None:
        """Let the next driver begin at once. Idempotent."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        work_for(self._root, None)
        if newest_attempt(self._storage) == self.number:
            self._write(released=True)

    def _renew(self) -> None:
        while not self._ended.wait(self._owner.timeout_s / BEATS_PER_TIMEOUT):
            try:
                if newest_attempt(self._storage) != self.number:
                    for call in self._when_lost:
                        call(f"another driver has taken over {self._root}")
                    return
                self._write(released=False)
            except OSError:
                continue  # a full disk, or a shared one that is away: whoever takes over is found before a commit

    def _write(self, *, released: bool) -> None:
        self._owner = dataclasses.replace(
            self._owner, beat=self._owner.beat + 1, renewed_at=time.time(), released=released
        )
        self._storage.replace(attempt_file(self.number), _dump(self._owner))


def lock_run(root: Path, *, timeout_s: float, say: Callable[[str], None] = lambda text: None) -> DriverLock:
    """Keep a second driver out of this run directory for as long as the returned lock is held.

    Raises UsageError at once where another driver of this machine holds it, and after a few seconds where one of
    another machine does; where that gives no sign of life for timeout_s, it is replaced. say is told of waiting.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        if not os.access(root, os.W_OK):
            raise PermissionError(f"no write permission on {root}")
        return _acquire(Folder(root.resolve()), root.resolve(), timeout_s, say)
    except OSError as error:
        raise UsageError(f"run directory {root} cannot be written: {error}; give another --run-dir") from error


def is_held(root: Path) -> bool:
    """Whether a driver works on this run, as far as can be seen without waiting."""
    storage = Folder(root)
    number = newest_attempt(storage)
    owner = _read(storage, number)
    if number == 0 or owner.released or owner.is_dead:
        return False
    return owner.is_here or abs(time.time() - owner.renewed_at) < 2 * owner.timeout_s


def _acquire(storage: Storage, root: Path, timeout_s: float, say: Callable[[str], None]) -> DriverLock:
    owner = _ourselves(timeout_s)
    seen, seen_at = None, 0.0
    while True:
        number = newest_attempt(storage)
        held_by = _read(storage, number)
        is_stale = seen == (number, held_by) and time.monotonic() - seen_at > max(timeout_s, held_by.timeout_s)
        if number == 0 or held_by.released or held_by.is_dead or is_stale:
            if storage.create(attempt_file(number + 1), _dump(owner)):
                _remove_older(storage, number + 1)
                return DriverLock(storage, root, number + 1, owner)
            seen = None  # somebody was faster
            continue
        has_moved = seen is not None and seen != (number, held_by) and held_by != _UNKNOWN
        if held_by.is_young or has_moved:
            raise UsageError(f"another process is running in {root} ({held_by}); wait for it, or stop it first")
        if seen is None:
            seen, seen_at = (number, held_by), time.monotonic()
            say(f"{root} was locked by {held_by}; waiting {timeout_s:g} s for a sign of life before it is taken over")
        time.sleep(min(1.0, timeout_s / BEATS_PER_TIMEOUT))


def _ourselves(timeout_s: float) -> Owner:
    process = psutil.Process()
    return Owner(
        host=socket.gethostname(),
        pid=process.pid,
        machine=_machine(),
        process_started=process.create_time(),
        timeout_s=timeout_s,
        renewed_at=time.time(),
    )


def _machine() -> str:
    """Names the kernel that runs here and the process ids that are seen here."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    names = Path("/proc/self/ns/pid")
    return f"{boot.read_text().strip()} {os.readlink(names)}" if boot.exists() else socket.gethostname()


def _lives(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        # Clocks may be set meanwhile, so that start times are not exact.
        return abs(process.create_time() - started) < 60.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _remove_older(storage: Storage, number: int) -> None:
    for older in range(number - 1, 0, -1):
        if storage.read(attempt_file(older)) is None:
            return
        storage.remove(attempt_file(older))


def _read(storage: Storage, number: int) -> Owner:
    """Whose file this is; somebody unknown where it is just being made, or was never finished."""
    try:
        return _OWNER.validate_json(storage.read(attempt_file(number)) or b"")
    except ValidationError:
        return _UNKNOWN


def _dump(owner: Owner) -> bytes:
    # Of one size, so that a renewal changes the file in place: what is renamed, shared folders show others late.
    return json.dumps(dataclasses.asdict(owner), sort_keys=True, indent=2).encode().ljust(_SIZE_BYTES - 1) + b"\n"
