"""A driver without a run: `python -m tests.support.lock_holder ROOT TIMEOUT_S` takes the lock and goes on committing.

Begins with the first line on standard input. Prints what happens to it, a line each; ends with exit code 2 where it is
refused, and 3 where it has lost the lock.
"""

import dataclasses
import json
import sys
import time
from pathlib import Path

from orchestrator.lock import Owner, lock_run
from rollout.errors import Stopped, UsageError
from rollout.shards import write_json


def elsewhere(root: Path, *, beat: int = 0, number: int = 1) -> None:
    """Write the lock of a driver on another machine."""
    owner = Owner(host="other", pid=1, machine="elsewhere", process_started=0.0, timeout_s=0.1, beat=beat)
    path = root / f"lock/{number:06d}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(owner)))


def main(root: Path, timeout_s: float) -> int:
    print("ready", flush=True)
    sys.stdin.readline()
    try:
        lock = lock_run(root, timeout_s=timeout_s, say=lambda text: print(text, flush=True))
    except UsageError as error:
        print(f"refused: {error}", flush=True)
        return 2
    print(f"attempt {lock.number}", flush=True)
    lock.when_lost(lambda reason: print(f"told: {reason}", flush=True))
    for number in range(100_000):
        try:
            write_json(root.resolve() / f"commit-{lock.number}.json", number)
        except Stopped as error:
            print(f"stopped: {error}", flush=True)
            lock.release()
            return 3
        time.sleep(0.02)
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2])))
