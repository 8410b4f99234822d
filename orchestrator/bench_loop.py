"""`rondo bench loop`: pairs/s of whole rounds and the seconds in each stage, on the real stack.

Its object also holds a `profile` for `rondo plan`, which is good for the same policy with more or less to do.
"""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from orchestrator.base import BASE_PATH
from orchestrator.bench import Row, announce, report
from orchestrator.bench_rollout import bench_config
from orchestrator.config import RunConfig
from orchestrator.plan.measured import fit_profile, measure
from orchestrator.status import STAGES, status
from rollout.errors import InfraError

_NUM_ROUNDS = 4


def bench_loop() -> dict[str, Any]:
    """Run a few rounds from a policy that exists already; medians over the rounds after the first, which warms up."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        announce("loop: making a policy")
        rondo_run(bench_config(num_rounds=1), root / "base")
        config = bench_config(
            num_rounds=_NUM_ROUNDS,
            policy={"path": str(root / "base" / BASE_PATH), "dtype": "float32"},
            evaluation={"prompts": "orchestrator.quickstart:held_out", "num_prompts": 64},
            learner={"learning_rate": 1e-4},
        )
        announce(f"loop: {_NUM_ROUNDS} rounds from that policy")
        rondo_run(config, root / "run")
        found = status(root / "run")
        profile = fit_profile([measure(root / "run")])
    rounds = found["rounds"][1:]
    rows = [
        Row(
            name="pairs, whole round",
            value=float(np.median([one["num_pairs"] / sum(one["seconds"].values()) for one in rounds])),
            unit="pairs/s",
            better="higher",
        ),
        Row(
            name="generation within a round",
            value=float(np.median([one["tokens_per_s"] for one in rounds])),
            unit="tokens/s",
            better="higher",
        ),
        Row(name="to the first token", value=found["first_token_s"], unit="s", better="lower", floor=60),
    ]
    rows += [
        Row(
            name=f"{stage}, a round",
            value=float(np.median([one["seconds"][stage] for one in rounds])),
            unit="s",
            better="lower",
        )
        for stage in STAGES
    ]
    return {**report("loop", rows), "profile": profile.plain()}


def rondo_run(config: RunConfig, root: Path) -> None:
    """The command itself in a process of its own: the way to the first token begins with starting Python."""
    path = root.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config.model_dump(mode="json")))
    command = [sys.executable, "-m", "orchestrator.cli", "run", str(path), "--run-dir", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InfraError(f"`{' '.join(command)}` ended with exit code {done.returncode}: {done.stderr[-2000:]}")
