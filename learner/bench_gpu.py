"""Model FLOPs utilisation of a training step on a GPU: random weights of a known shape, shared prompts counted once.

python -m learner.bench_gpu 1b|8b      one line of JSON on standard output
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import LlamaForCausalLM

from learner.bench_model import Shape, llama, make_pairs, needed_flops
from learner.config import LearnerConfig
from learner.logps import score
from learner.pairs import TrainingPair
from learner.trainer import Trainer

# Dense bf16 operations a second of an H100 or H200 (SXM).
PEAK_FLOPS_PER_S = 989e12
_ONE = Shape(
    hidden_size=2048, intermediate_size=8192, num_layers=16, num_heads=32, num_kv_heads=8, vocab_size=128256,
    prompt_tokens=512, min_answer_tokens=256, max_answer_tokens=1024, pairs_per_step=32, pairs_per_prompt=2,
)  # fmt: skip
SHAPES: Mapping[str, Shape] = {
    "1b": _ONE,
    "8b": replace(_ONE, hidden_size=4096, intermediate_size=14336, num_layers=32, tied=False),
}
# Masters, gradients and fp32 moments of 8 billion weights (128 GB) leave no room: 8-bit moments, and blocks run twice.
_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "1b": {"compile": "blocks"},
    "8b": {"compile": "blocks", "activation_checkpointing": "blocks", "optimizer": "adamw_8bit"},
}


def measure(shape: Shape, *, settings: LearnerConfig, device: torch.device) -> dict[str, Any]:
    """Seconds and needed operations of each step after the first: the reference's forward pass, and the step.

    What is computed twice on purpose (checkpoints, the head's logits) is not counted. The policy is its own reference.
    """
    torch.manual_seed(0)
    with device:
        model = LlamaForCausalLM(llama(shape)).eval()
    trainer = Trainer(model, settings=settings, compute_dtype=torch.bfloat16, clock=time.perf_counter)
    seconds, flops = [], []
    with TemporaryDirectory() as scratch:
        for pairs in make_pairs(shape):
            _wait(device)
            started = time.perf_counter()
            sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
            max_tokens = settings.max_tokens_per_microbatch
            logps = score(model, sides, compute_dtype=torch.bfloat16, max_tokens=max_tokens)
            rows = [
                TrainingPair(pair=pair, ref_chosen_logps=chosen, ref_rejected_logps=rejected)
                for pair, chosen, rejected in zip(pairs, logps[0::2], logps[1::2], strict=True)
            ]
            trainer.step(rows, learning_rate=1e-6, postmortem=Path(scratch) / "batch")
            _wait(device)
            seconds.append(time.perf_counter() - started)
            flops.append(needed_flops(pairs, shape))
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return {
        "utilisation": utilisation(seconds[1:], flops[1:]),
        "seconds": seconds[1:],
        "flops": flops[1:],
        "peak_bytes": peak,
        "num_parameters": shape.num_parameters,
    }


def utilisation(seconds: Sequence[float], flops: Sequence[float]) -> float:
    """The median step's share of the peak."""
    return statistics.median(f / s for f, s in zip(flops, seconds, strict=True)) / PEAK_FLOPS_PER_S


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    """Measure the shape in the first argument on the first GPU."""
    name = sys.argv[1]
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no part of the answer
    settings = LearnerConfig.model_validate({"device": "cuda", "compute_dtype": "bfloat16", **_SETTINGS[name]})
    found = measure(SHAPES[name], settings=settings, device=torch.device("cuda"))
    print(json.dumps(found), file=answer_to, flush=True)


if __name__ == "__main__":
    main()
