"""`rondo bench driver`: what the driver itself costs, by the round and by the pair, with stages that do nothing."""

import json
import multiprocessing
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from orchestrator.bench import Row, report
from orchestrator.simulation import Services, simulated_prompts, simulated_run
from rollout.shards import write_bytes
from rollout.sources import load_prompts
from rollout.types import Prompt

NUM_PAIRS = (100_000, 1_000_000)
_NUM_PROMPTS = 8  # of a tiny round, which is one chunk
# drawn.json; record.json when the round is opened and after each of four stages; groups, verdicts and pairs, each with
# a manifest.
_NUM_FILES = 12
_NUM_WARM = 10
_TMPFS = Path("/dev/shm")


class Driven(NamedTuple):
    """One round: CPU seconds of the driver's process, seconds on the clock, its memory at its peak, and before."""

    cpu_s: float
    wall_s: float
    peak_bytes: int
    before_bytes: int


def bench_driver(*, num_pairs: tuple[int, ...] = NUM_PAIRS, num_rounds: int = 60) -> dict[str, Any]:
    """Tiny rounds on disk and in memory, and rounds of very many pairs, each in a driver's process of its own."""
    rows: list[Row] = []
    for name, parent in _folders():
        fsync_ms = _alone(time_fsync_ms, parent)
        round_ms = _alone(time_round_ms, parent, num_rounds)
        rows.append(_row(f"bookkeeping of a round, files {name}", round_ms, "ms", floor=50))
        rows.append(_row(f"  of it fsync of {_NUM_FILES} files", fsync_ms * _NUM_FILES, "ms"))
    found = {num: Driven(*_alone(drive, num)) for num in num_pairs}
    for num, driven in found.items():
        rows.append(_row(f"driver, {num:,} pairs a round", driven.cpu_s / num * 1e6, "us a pair", floor=50))
        rows.append(_row("  on the clock, engines and judges included", driven.wall_s / num * 1e6, "us a pair"))
        rows.append(_row("  memory at its peak", driven.peak_bytes / 2**20, "MiB"))
        rows.append(_row("  of it before the round, prompts included", driven.before_bytes / 2**20, "MiB"))
    return report("driver", rows)


def _row(name: str, value: float, unit: str, *, floor: float | None = None) -> Row:
    return Row(name=name, value=value, unit=unit, better="lower", floor=floor)


def time_fsync_ms(parent: Path) -> float:
    """A small file written, flushed and renamed, as all of a run's are."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        seconds = []
        for number in range(50):
            started = time.perf_counter()
            write_bytes(Path(folder) / str(number), b"x" * 2000)
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e3


def time_round_ms(parent: Path, num_rounds: int) -> float:
    """The median of a run's tiny rounds after the first few."""
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        prompts = {"path": "simulated", "num_per_round": _NUM_PROMPTS}
        with simulated_run(Path(folder), Services(), num_rounds=num_rounds, prompts=prompts) as run:
            run.run(simulated_prompts(64 * _NUM_PROMPTS))
    return statistics.median(run.round_seconds[_NUM_WARM:]) * 1e3


def drive(num_pairs: int) -> Driven:
    """One round with a pair from each of num_pairs prompts."""
    with tempfile.TemporaryDirectory(dir=_folders()[-1][1]) as folder:
        prompts = {"path": "simulated", "num_per_round": num_pairs}
        rollout = {"num_completions": 2, "max_new_tokens": 16}
        with simulated_run(Path(folder), Services(), num_rounds=1, prompts=prompts, rollout=rollout) as run:
            given = _prompts(Path(folder) / "prompts.jsonl", num_pairs)
            before = psutil.Process().memory_info().rss
            started, cpu = time.perf_counter(), time.process_time()
            run.run(given)
            wall_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Driven(cpu_s=cpu_s, wall_s=wall_s, peak_bytes=peak, before_bytes=before)


def _prompts(path: Path, num: int) -> tuple[Prompt, ...]:
    with open(path, "w") as file:
        for number in range(num):
            file.write(json.dumps({"prompt": f"question {number}: " + "what becomes of it in the end? " * 4}) + "\n")
    return load_prompts(str(path)).prompts


def _folders() -> list[tuple[str, Path]]:
    """Where files go: the disk, and memory where the system offers room there."""
    found = [("on disk", Path(tempfile.gettempdir()))]
    if _TMPFS.is_dir() and shutil.disk_usage(_TMPFS).free > 4 * 2**30:
        found.append(("in memory", _TMPFS))
    return found


def _alone(measure: Callable[..., Any], *arguments: Any) -> Any:
    """In a new process: peaks of memory are those of a process, and Ray is started afresh."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()
