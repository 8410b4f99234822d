"""`rondo bench learner`: our training step beside TRL's DPOTrainer, on the same checkpoint and token ids."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.bench import NUM_PAIRS, Row, compared, report
from rollout.errors import InfraError, UsageError

_PEER = "TRL DPOTrainer"
_LONG = {"prompt_tokens": 768, "min_answer_tokens": 128, "max_answer_tokens": 128}
# bf16 products crawl on a CPU without instructions for them: one pair is enough of TRL's step there.
_SPEEDS: Sequence[tuple[str, str, dict[str, int], float | None]] = (
    ("prompt 32, answers 32-192", "float32", {}, None),
    ("prompt 32, answers 32-192", "bfloat16", {"pairs_per_step": 1}, 3.0),
    ("prompt 768, answers 128", "float32", {**_LONG, "pairs_per_step": 1}, None),
    (
        "prompt 768, answers 128, 2 pairs a prompt",
        "float32",
        {**_LONG, "pairs_per_step": 2, "pairs_per_prompt": 2},
        4.0,
    ),
)
_WIDE = {"vocab_size": 131072, "num_steps": 2}
_SMALL = {"hidden_size": 64, "num_heads": 2, "num_layers": 2, "intermediate_size": 128, "vocab_size": 512}
_LOSSES = ("sigmoid", "ipo", "hinge")


def bench_learner(*, num_pairs: int = NUM_PAIRS) -> dict[str, Any]:
    """Step about, so that both sides see the same machine; a step includes the reference's log-probabilities.

    Floors are ratios to the peer (pairs/s), multiples of what the operations need (seconds), or shares (memory).
    """
    if importlib.util.find_spec("trl") is None:
        raise UsageError("`rondo bench learner` measures beside TRL, which is not installed; pip install trl==1.16.0")
    rows: list[Row] = []
    for name, dtype, shape, floor in _SPEEDS:
        found = _ask(side="both", dtype=dtype, shape={**shape, "num_steps": num_pairs + 1})
        rows += _speed_rows(name, dtype, found, num_per_step=shape.get("pairs_per_step", 4), floor=floor)
    rows.append(_memory_row())
    rows += [_loss_row(loss) for loss in _LOSSES]
    return report("learner", rows)


def _speed_rows(name: str, dtype: str, found: dict[str, Any], *, num_per_step: int, floor: float | None) -> list[Row]:
    # The first step warms up.
    ours, trl = (np.asarray(found[side]["seconds"][1:]) for side in ("ours", "trl"))
    least = np.asarray(found["flops"][1:]) / np.median(found["gemm_flops_per_s"])
    label = f"{name}, {dtype}"
    if found["compute_dtype"] != dtype:
        label += f" (ours auto: {found['compute_dtype']}, as this CPU multiplies no {dtype})"
    speed = compared(
        label, list(num_per_step / ours), list(num_per_step / trl), unit="pairs/s", peer=_PEER, floor=floor
    )
    step = Row(
        name=f"{label}: step over its fp32 products alone",
        value=float(np.median(ours / least)),
        unit="x",
        better="lower",
        peer=_PEER,
        peer_value=float(np.median(trl / least)),
        floor=2.5,
    )
    return [speed, step]


def _memory_row() -> Row:
    ours, trl = (_ask(side=side, dtype="float32", shape=_WIDE)["peak_bytes"] for side in ("ours", "trl"))
    return Row(
        name="peak memory, vocabulary 128k, float32, above weights, gradients and moments",
        value=ours / 2**20,
        unit="MiB",
        better="lower",
        peer=_PEER,
        peer_value=trl / 2**20,
        ratio=ours / trl,
        ratio_low=ours / trl,
        ratio_high=ours / trl,
        floor=0.4,
    )


def _loss_row(loss: str) -> Row:
    found = _ask(side="both", dtype="float32", loss=loss, shape={**_SMALL, "num_steps": 10})
    apart = np.abs(np.subtract(found["ours"]["losses"], found["trl"]["losses"])).max()
    return Row(
        name=f"{loss}, float32: largest difference of 10 steps' losses from TRL's",
        value=float(apart),
        unit="nats",
        better="lower",
        floor=1e-4,
    )


def _ask(*, side: str, dtype: str, shape: dict[str, int], loss: str = "sigmoid") -> dict[str, Any]:
    request = json.dumps({"side": side, "dtype": dtype, "loss": loss, "shape": shape})
    command = [sys.executable, "-m", "learner.trl_peer", request]
    # Freed memory goes back to the system at once, so that a peak is one of memory in use.
    env = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=env if side != "both" else None)
    if done.returncode:
        raise InfraError(f"`{' '.join(command)}` ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
