"""`rondo bench overlap`: rounds with a policy lag of 1, against the longer of what then runs side by side."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

from orchestrator.base import BASE_PATH
from orchestrator.bench import NUM_PAIRS, Row, compared, report
from orchestrator.bench_loop import rondo_run
from orchestrator.bench_rollout import bench_config
from orchestrator.simulation import Services, simulated_prompts, simulated_run
from orchestrator.status import read_metrics, stage_seconds

_NUM_CHUNKS = 8
_NUM_PROMPTS = 8  # of a chunk
# Generation and judging longer than learning, and the other way round: either may be what a round waits for.
_SERVICES = {
    "generation the longer": Services(generate_s=0.15, judge_s=0.02, train_s=1.0),
    "learning the longer": Services(generate_s=0.1, judge_s=0.02, train_s=1.2),
}


def bench_overlap(*, num_rounds: int = NUM_PAIRS, real: bool = False) -> dict[str, Any]:
    """Rounds with a lag of 1 and with none. Simulated stages sleep, so that two cores are enough for all of them.

    real: also the real stages, with a core each for engine and learner.
    """
    rows = [
        _row(f"simulated, {name}", *(simulated_rounds(services, lag=lag, num_rounds=num_rounds) for lag in (1, 0)))
        for name, services in _SERVICES.items()
    ]
    if real:
        rows.append(_row("real stages", *real_rounds()))
    return report("overlap", rows)


def simulated_rounds(services: Services, *, lag: int, num_rounds: int) -> list[float]:
    """Seconds of num_rounds rounds with a lag; without one those of the longer of their two sides."""
    settings = {
        "num_rounds": num_rounds + 1,
        "max_policy_lag": lag,
        "prompts": {"path": "simulated", "num_per_round": _NUM_CHUNKS * _NUM_PROMPTS},
        "rollout": {"num_completions": 2, "prompts_per_shard": _NUM_PROMPTS},
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with simulated_run(root, services, **settings) as run:
            run.run(simulated_prompts(_NUM_CHUNKS * _NUM_PROMPTS))
        return run.round_seconds if lag else _longer_sides(root)


def real_rounds(*, num_rounds: int = 4) -> tuple[list[float], list[float]]:
    """The same of `rondo run` on a policy of random weights in the quickstart's shape: with a lag, and the sides."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rondo_run(bench_config(num_rounds=1), root / "base")
        shared = {
            "num_rounds": num_rounds + 1,
            "policy": {"path": str(root / "base" / BASE_PATH), "dtype": "float32"},
            "learner": {"cpus": 1, "num_threads": 1},
        }
        for lag in (1, 0):
            rondo_run(bench_config(max_policy_lag=lag, **shared), root / str(lag))
        lines = read_metrics(root / "1")
        learnt = [line["time"] for line in lines if line["kind"] == "stage" and line["stage"] == "learn"]
        return [after - before for before, after in itertools.pairwise(learnt)], _longer_sides(root / "0")


def _row(name: str, ours: list[float], sides: list[float]) -> Row:
    peer = "max(generate + judge, train) without lag"
    return compared(f"a round, {name}", ours, sides, unit="s", peer=peer, floor=1.1, better="lower")


def _longer_sides(root: Path) -> list[float]:
    """Of each round but the first, which warms up."""
    rounds = [seconds for round_id, seconds in sorted(stage_seconds(read_metrics(root)).items()) if round_id]
    return [max(seconds["generate"] + seconds["judge"], seconds["learn"]) for seconds in rounds]
