"""The Bradley-Terry trainer: preference pairs in, a reward model's folder out.

P(chosen is better) = sigmoid(r_chosen - r_rejected) (Bradley and Terry 1952). The loss is its negative logarithm
(Ouyang et al. 2022, 2203.02155, equation 1) plus a penalty on the pair's sum that keeps rewards around zero, which
differences alone leave open (Eisenstein et al. 2023, 2312.09244, section 2).
"""

import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from learner.batches import microbatches, pad, shuffled
from learner.dialogues import DialogueEncoder, EncodedPair, encode_comparisons
from learner.errors import DivergedError
from learner.logps import compute_in
from learner.model import named_dtype
from learner.optimizers import build_optimizer
from learner.reward_config import RewardModelConfig
from learner.reward_folder import as_learner, make_random, open_start, save_classifier
from learner.reward_report import HeldOut, measure_held_out
from learner.reward_rows import load_comparisons
from learner.sft import plan, rate_share
from learner.state_writing import sync_files
from learner.types import StepMetrics
from rollout.errors import UsageError
from rollout.shards import hash_policy, publish, temporary_beside, write_json
from rollout.types import TokenIds, TokenSequence

__all__ = ["RewardModelReport", "bradley_terry_loss", "fit_reward_model", "make_random"]

REPORT = "reward_model.json"


@dataclass(frozen=True, kw_only=True)
class RewardModelReport:
    """What was fitted and how well. dropped: rows that were not used, by reason; losses: one a step (nats)."""

    model_sha256: str
    source_sha256: str
    settings: Mapping[str, Any]
    num_pairs: int
    num_prompts: int
    num_steps: int
    dropped: Mapping[str, int]
    losses: tuple[float, ...]
    train_accuracy: float
    held_out: HeldOut | None


def fit_reward_model(
    sources: Sequence[str], *, model: Path, out: Path, settings: RewardModelConfig
) -> Generator[StepMetrics, None, RewardModelReport]:
    """Fit a reward model to the pairs of `sources` (see load_comparisons), starting from the policy folder `model`.

    Yields the optimizer's steps, and writes `out`, all of it or nothing: safetensors, tokenizer, chat template and
    reward_model.json. Equal inputs give equal files. Raises UsageError where the model or the pairs cannot be used.
    """
    if out.exists():
        raise UsageError(f"{out} exists already; give another folder as --out, or remove it")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    comparisons, dropped = load_comparisons(sources)
    start = open_start(model, settings)
    encoder = DialogueEncoder(start.tokenizer, max_length=start.max_length)
    pairs, unusable = encode_comparisons(comparisons, encoder)
    pairs, num_over = _capped(pairs, settings)
    counts = Counter({**dropped, "over_max_pairs": num_over}) + Counter(unusable)
    train, held_out = split_by_prompt(pairs, share=settings.held_out_share, seed=settings.seed)
    if not train:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) or "no rows"
        raise UsageError(f"{', '.join(sources)} has no pair to learn from: {reasons}")
    losses = []
    num_right = 0.0
    for step in train_steps(start.model, train, settings, compute_dtype=start.compute_dtype):
        losses.append(step.values["loss"])
        num_right += step.values["accuracy"] * step.values["num_pairs"]
        yield step
    start.model.base_model.to(named_dtype(settings.dtype))
    measured = None
    if held_out:
        chosen, rejected = rewards(start.model, held_out, start.compute_dtype, settings.max_tokens_per_microbatch)
        measured = measure_held_out(chosen, rejected, num_prompts=_num_prompts(held_out))
    temporary = temporary_beside(out.absolute())
    shutil.rmtree(temporary, ignore_errors=True)
    report = RewardModelReport(
        model_sha256=save_classifier(start.model, start.tokenizer, temporary),
        source_sha256=hash_policy(model),
        settings=settings.model_dump(mode="json"),
        num_pairs=len(train),
        num_prompts=_num_prompts(train),
        num_steps=len(losses),
        dropped=dict(sorted(counts.items())),
        losses=tuple(losses),
        train_accuracy=num_right / (len(train) * settings.num_epochs),
        held_out=measured,
    )
    write_json(temporary / REPORT, asdict(report))
    sync_files(temporary)
    publish(temporary, out.absolute())
    return report


def bradley_terry_loss(chosen_B: Tensor, rejected_B: Tensor, *, centre_coefficient: float = 0.0) -> Tensor:
    """-log sigmoid(r_c - r_r) + centre_coefficient * (r_c + r_r)^2 of each pair: float[B], nats."""
    return -F.logsigmoid(chosen_B - rejected_B) + centre_coefficient * (chosen_B + rejected_B).square()


def split_by_prompt(
    pairs: Sequence[EncodedPair], *, share: float, seed: int
) -> tuple[list[EncodedPair], list[EncodedPair]]:
    """(train, held out): whole prompts are held out, by a hash of seed and prompt, until they have the share of pairs.

    The order of the pairs makes no difference to which are held out. At least one prompt is left for training.
    """
    num_of = Counter(pair.prompt_key for pair in pairs)
    order = sorted(num_of, key=lambda key: hashlib.sha256(f"{seed}/{key}".encode()).digest())
    held: set[str] = set()
    num_held = 0
    for key in order[:-1]:
        if num_held + num_of[key] / 2 > share * len(pairs):
            break
        held.add(key)
        num_held += num_of[key]
    return [p for p in pairs if p.prompt_key not in held], [p for p in pairs if p.prompt_key in held]


def reward_rows(model: PreTrainedModel, rows: Sequence[TokenIds], compute_dtype: torch.dtype) -> Tensor:
    """Rewards of dialogues, float32[B]: the head in float32 on the hidden state of each row's last token."""
    nothing = torch.empty(0, dtype=torch.int32).numpy()
    # The padding id makes no difference: it is masked, and the last token is known by its place.
    batch = pad([TokenSequence(prompt_ids=row, completion_ids=nothing) for row in rows]).to(model.device)
    body, head = cast(Any, model.base_model), cast(nn.Linear, model.score)
    with compute_in(compute_dtype, model.device):
        hidden_BTD = body(
            input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT, use_cache=False
        ).last_hidden_state
    last_B = batch.attention_mask_BT.sum(dim=1) - 1
    return head(hidden_BTD[torch.arange(len(rows), device=model.device), last_B].float())[:, 0]  # type: ignore[no-any-return]


def train_steps(
    model: PreTrainedModel, pairs: Sequence[EncodedPair], settings: RewardModelConfig, *, compute_dtype: torch.dtype
) -> Generator[StepMetrics, None, None]:
    """Train in place, without dropout; each step's values are those before it. Raises DivergedError."""
    lengths = [pair.length for pair in pairs]
    steps = [
        batch
        for epoch in range(settings.num_epochs)
        for batch in plan(lengths, batch_rows=settings.batch_pairs, seed=settings.seed, epoch=epoch)
    ]
    model.get_input_embeddings().requires_grad_(not settings.freeze_embeddings)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = build_optimizer(parameters, as_learner(settings))
    for step, rows in enumerate(steps, start=1):
        share = rate_share(step, len(steps), schedule=settings.schedule, warmup_share=settings.warmup_share)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * share
        loss = num_right = 0.0
        cuts = microbatches(rows, lengths, max_tokens=settings.max_tokens_per_microbatch, rows_per_item=2)
        for cut in cuts:
            chosen_B, rejected_B = _both_sides(model, [pairs[i] for i in cut], compute_dtype)
            loss_B = bradley_terry_loss(chosen_B, rejected_B, centre_coefficient=settings.centre_coefficient)
            part = loss_B.sum() / len(rows)
            part.backward()  # type: ignore[no-untyped-call]
            loss += part.item()
            num_right += (chosen_B > rejected_B).sum().item()
        grad_norm = torch.nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm).item()
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            raise DivergedError(
                f"step {step} has loss {loss} and gradient norm {grad_norm}, expected finite numbers; nothing was "
                "written: lower --learning-rate, or compute in float32"
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        values = {
            "loss": loss,
            "accuracy": num_right / len(rows),
            "grad_norm": grad_norm,
            "learning_rate": settings.learning_rate * share,
            "num_pairs": float(len(rows)),
        }
        yield StepMetrics(step=step, num_steps=len(steps), values=values)


@torch.no_grad()
def rewards(
    model: PreTrainedModel, pairs: Sequence[EncodedPair], compute_dtype: torch.dtype, max_tokens: int
) -> tuple[list[float], list[float]]:
    """Rewards of the chosen and of the rejected dialogues, pair by pair."""
    found: dict[int, tuple[float, float]] = {}
    lengths = [pair.length for pair in pairs]
    for cut in microbatches(range(len(pairs)), lengths, max_tokens=max_tokens, rows_per_item=2):
        chosen_B, rejected_B = _both_sides(model, [pairs[i] for i in cut], compute_dtype)
        found |= dict(zip(cut, zip(chosen_B.tolist(), rejected_B.tolist(), strict=True), strict=True))
    return [found[i][0] for i in range(len(pairs))], [found[i][1] for i in range(len(pairs))]


def _both_sides(
    model: PreTrainedModel, pairs: Sequence[EncodedPair], compute_dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    rows = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    chosen_B, rejected_B = reward_rows(model, rows, compute_dtype).chunk(2)
    return chosen_B, rejected_B


def _capped(pairs: list[EncodedPair], settings: RewardModelConfig) -> tuple[list[EncodedPair], int]:
    """At most max_pairs of them, drawn by seed and content, and how many were left out."""
    if settings.max_pairs is None or len(pairs) <= settings.max_pairs:
        return pairs, 0
    keys = [hashlib.sha256(pair.chosen.tobytes() + b"/" + pair.rejected.tobytes()).hexdigest() for pair in pairs]
    drawn = shuffled(keys, seed=settings.seed, round_id=0, epoch=0)[: settings.max_pairs]
    return [pairs[i] for i in sorted(drawn)], len(pairs) - settings.max_pairs


def _num_prompts(pairs: Sequence[EncodedPair]) -> int:
    return len({pair.prompt_key for pair in pairs})
