"""`rondo bench learner`: our training step beside TRL's DPOTrainer, on the same checkpoint and token ids."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from orchestrator.bench import NUM_PAIRS, Row, announce, compared, report
from orchestrator.bench_ranks import rank_rows
from rollout.errors import InfraError, UsageError

_PEER = "TRL DPOTrainer"
_LONG = {"prompt_tokens": 768, "min_answer_tokens": 128, "max_answer_tokens": 128}
# bf16 products crawl on a CPU without instructions for them: one pair is enough of TRL's step there.
_SPEEDS: Sequence[tuple[str, str, dict[str, int], float | None]] = (
    ("prompt 32, answers 32-192, 1 pair a prompt", "float32", {"pairs_per_step": 2}, None),
    ("prompt 32, answers 32-192, 1 pair a prompt", "bfloat16", {"pairs_per_step": 1}, 3.0),
    ("prompt 768, answers 128, 1 pair a prompt", "float32", {**_LONG, "pairs_per_step": 1}, 4.0),
    (
        "prompt 768, answers 128, 2 pairs a prompt",
        "float32",
        {**_LONG, "pairs_per_step": 2, "pairs_per_prompt": 2},
        4.0,
    ),
)
_WIDE = {"vocab_size": 131072, "num_steps": 2, "pairs_per_step": 2}
_SMALL = {"hidden_size": 64, "num_heads": 2, "num_layers": 2, "intermediate_size": 128, "vocab_size": 512}
_LOSSES = ("sigmoid", "ipo", "hinge")


def bench_learner(*, num_pairs: int = NUM_PAIRS) -> dict[str, Any]:
    """Step about, so that both sides see the same machine; a step includes the reference's log-probabilities.

    Floors are ratios to the peer (pairs/s), multiples of what the operations need (seconds), or shares (memory).
    """
    if importlib.util.find_spec("trl") is None:
        raise UsageError("`rondo bench learner` measures beside TRL, which is not installed; pip install trl==1.16.0")
    shapes = [{**shape, "num_steps": num_pairs + 1} for _, _, shape, _ in _SPEEDS]
    speeds = [request(dtype=dtype, shape=shape) for (_, dtype, _, _), shape in zip(_SPEEDS, shapes, strict=True)]
    losses = [request(loss=loss, shape={**_SMALL, "num_steps": 10}) for loss in _LOSSES]
    announce(f"learner: {len(speeds)} shapes and {len(losses)} losses beside TRL, {num_pairs} pairs of steps each")
    found = ask([*speeds, *losses])
    rows: list[Row] = []
    for (name, dtype, shape, floor), timed in zip(_SPEEDS, found, strict=False):
        rows += _speed_rows(name, dtype, timed, num_per_step=shape["pairs_per_step"], floor=floor)
    announce("learner: peak memory")
    rows.append(_memory_row())
    rows += [_loss_row(loss, both) for loss, both in zip(_LOSSES, found[len(speeds) :], strict=True)]
    announce("learner: 2 processes against 1")
    rows += rank_rows(num_pairs=num_pairs)
    rows += gpu_rows()
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
    # In processes of their own, whose peaks are theirs alone.
    ours, trl = (ask([request(side=side, shape=_WIDE)], trims=True)[0]["peak_bytes"] for side in ("ours", "trl"))
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


def _loss_row(loss: str, found: dict[str, Any]) -> Row:
    apart = np.abs(np.subtract(found["ours"]["losses"], found["trl"]["losses"])).max()
    return Row(
        name=f"{loss}, float32: largest difference of 10 steps' losses from TRL's",
        value=float(apart),
        unit="nats",
        better="lower",
        floor=1e-4,
    )


def bench_learner_gpu(shapes: Sequence[str]) -> dict[str, Any]:
    """The rows of a GPU alone, for a machine without the peer."""
    return report("learner", gpu_rows(shapes))


def gpu_rows(shapes: Sequence[str] = ("1b", "8b")) -> list[Row]:
    """What share of a GPU's peak a step of random Llamas uses; rows without a value where there is no GPU."""
    import torch

    rows = []
    for shape in shapes:
        name = f"{shape} Llama shape, bfloat16 on one H200: model FLOPs utilisation of 989 TFLOP/s"
        value = None
        if torch.cuda.is_available():
            value = 100 * _run("learner.bench_gpu", shape)["utilisation"]
        name += "" if value is not None else " (unmeasured: no GPU)"
        rows.append(Row(name=name, value=value, unit="%", better="higher", floor=55.0))
    return rows


def request(
    *, shape: dict[str, int], side: str = "both", dtype: str = "float32", loss: str = "sigmoid", **settings: Any
) -> dict[str, Any]:
    return {"side": side, "dtype": dtype, "loss": loss, "shape": shape, **settings}


def ask(requests: Sequence[dict[str, Any]], *, trims: bool = False) -> list[dict[str, Any]]:
    """What `python -m learner.trl_peer` answers. trims: freed memory goes back to the system at once, so that a peak
    is one of memory in use."""
    env = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**20)} if trims else {}
    found: list[dict[str, Any]] = _run("learner.trl_peer", json.dumps(requests), env=env)
    return found


def _run(module: str, argument: str, env: Mapping[str, str] | None = None) -> Any:
    command = [sys.executable, "-m", module, argument]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(env or {})})
    if done.returncode:
        raise InfraError(f"`{' '.join(command)}` ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    return json.loads(done.stdout)
