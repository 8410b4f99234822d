"""Which attempt at a run a process works for: nothing is committed for one that another driver has replaced.

Every driver of a run is an attempt with a number, and has a file `lock/NNNNNN.json` in the run directory, which only
one can make (orchestrator.lock). The highest number owns the run. A driver and all its actors carry their attempt in
the environment, and every commit asks whether it is still the highest one.
"""

import os
from pathlib import Path

from rollout.errors import Stopped
from rollout.storage import Folder, Storage

LOCK_FOLDER = "lock"
_VARIABLE = "RONDO_ATTEMPT"


def attempt_file(number: int) -> str:
    """The name of an attempt's file, relative to the run directory."""
    return f"{LOCK_FOLDER}/{number:06d}.json"


def newest_attempt(storage: Storage) -> int:
    """The number of the attempt that owns a run; 0 where nobody has."""
    return max(
        (int(stem) for name in storage.names(LOCK_FOLDER) if (stem := name.partition(".")[0]).isdigit()), default=0
    )


def attempt_environment() -> dict[str, str]:
    """What the processes that a driver starts elsewhere need in their environment."""
    return {_VARIABLE: os.environ[_VARIABLE]} if _VARIABLE in os.environ else {}


def work_for(root: Path, number: int | None) -> None:
    """From here on this process works for an attempt at the run in `root`, or for none."""
    if number is None:
        os.environ.pop(_VARIABLE, None)
    else:
        os.environ[_VARIABLE] = f"{number}:{root}"


def check_attempt(path: Path) -> None:
    """Raise Stopped where `path` lies in the run that this process works for, and another driver has taken it over."""
    number, _, root = os.environ.get(_VARIABLE, "").partition(":")
    if not number or not path.is_relative_to(root):
        return
    newest = newest_attempt(Folder(Path(root)))
    if newest != int(number):
        raise Stopped(f"attempt {newest} has taken over {root}; this one, {number}, commits nothing more")
