"""The row of `rondo bench learner` that holds two processes on two cores against one on one core."""

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np

from orchestrator.bench import NUM_PAIRS, Row, compared
from rollout.errors import InfraError

_SHAPE = {"pairs_per_step": 8}
_NUM_RANKS = 2


def rank_rows(*, num_pairs: int = NUM_PAIRS) -> list[Row]:
    """The same global batch, 60 M parameters, fp32, one thread a process; and how far apart their losses are."""
    found = _ask({"shape": {**_SHAPE, "num_steps": num_pairs + 1}, "num_ranks": _NUM_RANKS})
    # The first step warms up.
    one, many = (_SHAPE["pairs_per_step"] / np.asarray(found[side]["seconds"][1:]) for side in ("one", "many"))
    speed = compared(
        "2 processes on 2 cores, prompt 32, answers 32-192, float32",
        list(many),
        list(one),
        unit="pairs/s",
        peer="1 process on 1 core",
        floor=1.7,
    )
    apart = np.abs(np.subtract(found["one"]["losses"], found["many"]["losses"])).max()
    losses = Row(
        name=f"2 processes, float32: largest difference of {num_pairs + 1} steps' losses from 1 process's",
        value=float(apart),
        unit="nats",
        better="lower",
        floor=1e-5,
    )
    return [speed, losses]


def _ask(request: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-m", "learner.bench_ranks", json.dumps(request)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    if done.returncode:
        raise InfraError(f"`{' '.join(command)}` ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
