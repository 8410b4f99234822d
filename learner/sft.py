"""Supervised fine-tuning: the policy learns to answer in the format before any preference is asked of it."""

import math
import random
import time
from collections.abc import Iterator, Sequence

import torch
from transformers import PreTrainedModel

from learner.base_config import SftConfig
from learner.batches import microbatches, num_tokens, pad, split
from learner.logps import completion_logps
from learner.types import StepMetrics
from rollout.types import TokenSequence

# Batches are cut from so many at a time, sorted by length: little padding, and still a fresh mixture every epoch.
_BATCHES_SORTED_TOGETHER = 16


def fine_tune(
    model: PreTrainedModel,
    demonstrations: Sequence[TokenSequence],
    *,
    settings: SftConfig,
    seed: int,
    max_tokens_per_microbatch: int = 16384,
    compute_dtype: torch.dtype = torch.float32,
) -> Iterator[StepMetrics]:
    """Train `model` in place on the completion tokens, the end of turn among them; yields one StepMetrics a step.

    The weights are the fp32 masters; products run in compute_dtype. Each batch's loss is the mean negative
    log-probability of its completion tokens (nats). Equal model, demonstrations and seed give equal weights.
    """
    lengths = [num_tokens(sequence) for sequence in demonstrations]
    steps = [
        batch
        for epoch in range(settings.num_epochs)
        for batch in plan(lengths, batch_rows=settings.batch_rows, seed=seed, epoch=epoch)
    ]
    optimizer = _optimizer(model, settings)
    model.train()
    for step, rows in enumerate(steps, start=1):
        started = time.monotonic()
        share = rate_share(step, len(steps), schedule=settings.schedule, warmup_share=settings.warmup_share)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * share
        num_trained = sum(len(demonstrations[row].completion_ids) for row in rows)
        loss = 0.0
        for micro in microbatches(rows, lengths, max_tokens=max_tokens_per_microbatch):
            batch = pad([demonstrations[row] for row in micro]).to(model.device)
            with torch.autocast(model.device.type, compute_dtype, enabled=compute_dtype != torch.float32):
                part = -completion_logps(model, batch).sum() / num_trained
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
        grad_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm).item()
        optimizer.step()
        optimizer.zero_grad()
        tokens = sum(lengths[row] for row in rows)
        values = {
            "loss": loss,
            "grad_norm": grad_norm,
            "learning_rate": settings.learning_rate * share,
            "tokens_per_s": tokens / (time.monotonic() - started),
            "num_rows": float(len(rows)),
            "num_tokens": float(tokens),
        }
        yield StepMetrics(step=step, num_steps=len(steps), values=values)
    model.eval()


def plan(lengths: Sequence[int], *, batch_rows: int, seed: int, epoch: int) -> list[list[int]]:
    """One epoch's batches of row indices: every row once, similar lengths together, in an order of the seed."""
    choose = random.Random(f"{seed}/{epoch}")
    order = list(range(len(lengths)))
    choose.shuffle(order)
    batches = []
    for window in split(order, batch_rows * _BATCHES_SORTED_TOGETHER):
        batches += split(sorted(window, key=lambda row: lengths[row]), batch_rows)
    choose.shuffle(batches)
    return batches


def rate_share(step: int, num_steps: int, *, schedule: str, warmup_share: float) -> float:
    """Share of the peak learning rate at `step` (from 1): linear warm-up, then cosine or linear towards zero."""
    num_warmup = math.ceil(num_steps * warmup_share)
    if step <= num_warmup:
        return step / num_warmup
    left = (num_steps - step + 1) / (num_steps - num_warmup + 1)
    return left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2


def _optimizer(model: PreTrainedModel, settings: SftConfig) -> torch.optim.AdamW:
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    groups = [
        {"params": [weight for weight in weights if weight.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [weight for weight in weights if weight.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.adam_betas, fused=True)
