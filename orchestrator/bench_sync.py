"""`rondo bench sync`: each road that new weights take, at 60 M parameters, against memcpy of the same bytes."""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from orchestrator.base import BASE_PATH, record_base
from orchestrator.bench import NUM_PAIRS, Row, compared, report
from orchestrator.bench_loop import rondo_run
from orchestrator.bench_rollout import bench_config
from orchestrator.cluster.learner import RayLearner
from orchestrator.cluster.rollout import RayRollout
from orchestrator.cluster.session import start_ray, stop_ray
from orchestrator.config import RunConfig
from orchestrator.observer import Observer
from orchestrator.rundir import open_run
from orchestrator.status import read_metrics, status
from rollout.shards import WeightOffer, WeightSource, ask_for_offers, folder_source, hash_policy, offered_weights
from rollout.types import PolicyRef

# 60 million parameters of which few are embeddings, as the quickstart's words make no large vocabulary.
SIXTY_MILLION = {
    "corpus": "orchestrator.quickstart:demonstrations",
    "hidden_size": 640,
    "intermediate_size": 2560,
    "num_layers": 10,
    "num_heads": 10,
    "num_kv_heads": 2,
}
_NUM_ROUNDS = 3


def bench_sync(*, num_pairs: int = NUM_PAIRS, rounds: bool = True) -> dict[str, Any]:
    """Roads into plain tensors and into a running vLLM engine, and the share of whole rounds that they take."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        with _engine(root, _config(num_rounds=1)) as (rollout, base):
            rows = _into_tensors(root, base, num_pairs) + _into_vllm(root, rollout, base, num_pairs)
        if rounds:
            rows.append(_share_of_a_round(root, base))
    return report("sync", rows)


@contextmanager
def _engine(root: Path, config: RunConfig) -> Iterator[tuple[RayRollout, PolicyRef]]:
    """A base policy of 60 million random parameters, and an engine that holds it."""
    run = open_run(root, config)
    observer = Observer(root, console=Console(quiet=True))
    start_ray(config.cluster)
    try:
        learner = RayLearner(run, config, observer)
        base = record_base(root, learner.make_base(config, source=None, path=BASE_PATH, on_step=lambda step: None))
        rollout = RayRollout(run, config, observer)
        rollout.load(base)
        yield rollout, base
    finally:
        stop_ray()


def _into_tensors(root: Path, base: PolicyRef, num_pairs: int) -> list[Row]:
    """From where the learner left it to tensors that are there already, everything checked."""
    ask_for_offers(root)
    offer, folder = WeightOffer(root), root / base.path
    held = {name: tensor.clone() for name, tensor in folder_source(folder).tensors()}
    size_bytes = sum(tensor.nbytes for tensor in held.values())
    source, target = np.ones(size_bytes, np.uint8), np.zeros(size_bytes, np.uint8)

    def into_tensors(weights: WeightSource) -> None:
        for name, tensor in weights.tensors():
            held[name].copy_(tensor)

    def shared() -> None:
        with offered_weights(root, base, folder) as weights:
            assert weights is not None
            into_tensors(weights)

    def by_folder() -> None:
        hash_policy(folder)
        into_tensors(folder_source(folder))

    offer.make(base, folder)
    roads = {
        "shared memory, into tensors": (shared, 0.5),
        "folder, into tensors": (by_folder, None),
        "offer of the learner": (lambda: offer.make(base, folder), None),
    }
    copies: dict[str, list[float]] = {name: [] for name in roads}
    taken: dict[str, list[float]] = {name: [] for name in roads}
    for _ in range(num_pairs + 1):
        for name, (road, _) in roads.items():
            taken[name].append(size_bytes / _seconds(road) / 1e9)
            copies[name].append(size_bytes / _seconds(lambda: np.copyto(target, source)) / 1e9)
    offer.close()
    return [
        compared(name, taken[name][1:], copies[name][1:], unit="GB/s", peer="memcpy", floor=floor)  # the first warms up
        for name, (_, floor) in roads.items()
    ]


def _into_vllm(root: Path, rollout: RayRollout, base: PolicyRef, num_pairs: int) -> list[Row]:
    """From the driver's call to an engine that would answer by the new weights, the two roads in turns."""
    offer = WeightOffer(root)
    version, seconds = 0, dict[str, list[float]](shared_memory=[], folder=[])
    for _ in range(num_pairs):
        for road, values in seconds.items():
            version += 1
            policy = replace(base, version=version)
            offer.make(policy, root / base.path) if road == "shared_memory" else offer.close()
            values.append(_seconds(partial(rollout.load, policy)))
            assert [line["road"] for line in read_metrics(root) if line["kind"] == "sync"][-1] == road
    offer.close()
    return [
        Row(name=f"vLLM, new weights in place, {road}", value=statistics.median(values), unit="s", better="lower")
        for road, values in seconds.items()
    ]


def _share_of_a_round(root: Path, base: PolicyRef) -> Row:
    """Stage `sync` of whole rounds in the quickstart's shape, of all of their seconds."""
    config = _config(
        num_rounds=_NUM_ROUNDS,
        policy={"path": str(root / base.path), "dtype": "float32"},
        prompts={"path": "orchestrator.quickstart:prompts", "num_per_round": 160},
        rollout={"num_completions": 6, "max_new_tokens": 80, "cpus_per_engine": 2},
        learner={"learning_rate": 2e-4, "batch_pairs": 16, "cpus": 2},
        evaluation={"prompts": "orchestrator.quickstart:held_out", "num_prompts": 64},
        cluster={"num_cpus": 4},
    )
    rondo_run(config, root / "run")
    rounds = [found["seconds"] for found in status(root / "run")["rounds"]]
    share = statistics.median(100 * seconds["sync"] / sum(seconds.values()) for seconds in rounds)
    return Row(name="sync of a round", value=share, unit="%", better="lower", floor=2)


def _config(**changes: Any) -> RunConfig:
    return bench_config(**{"policy": {"scratch": SIXTY_MILLION, "dtype": "float32"}, **changes})


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started
