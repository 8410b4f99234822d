"""What a step measured, as plain numbers, and a round's means."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from learner.loss import rewards
from learner.losses.pair_logps import PairLogps, joined
from learner.ranks import Ranks

# Beyond this, exp() of a token's log ratio says nothing but that policy and reference have parted.
_MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, kw_only=True, eq=False)
class PassOutput:
    """One micro-batch of B pairs: losses and sequence log-probabilities float[B], and sums over completion tokens."""

    logps: PairLogps
    loss_B: Tensor
    sum_k1: Tensor
    sum_k3: Tensor
    num_completion_tokens: int

    def detached(self) -> "PassOutput":
        """The same figures without a graph, in main memory."""
        columns: dict[str, Any] = {name: column.detach().cpu() for name, column in self.logps.tensors.items()}
        return replace(
            self,
            logps=replace(self.logps, **columns),
            loss_B=self.loss_B.detach().cpu(),
            sum_k1=self.sum_k1.detach().cpu(),
            sum_k3=self.sum_k3.detach().cpu(),
        )


def gathered(outputs: list[PassOutput], ranks: Ranks) -> list[PassOutput]:
    """What the passes of all ranks gave, in the order of the ranks."""
    if ranks.num_ranks == 1:
        return outputs
    return [output for own in ranks.gather_teams([output.detached() for output in outputs]) for output in own]


def token_kl_sums(logps_BT: Tensor, ref_logps_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over completion tokens of the estimators k1 = log pi/ref and k3 = ref/pi - 1 + log pi/ref.

    Source: Schulman, "Approximating KL divergence" (2020). The completions were sampled by the round's policy.
    """
    ratio_N = (logps_BT.detach() - ref_logps_BT)[mask_BT]
    k3_N = torch.exp(-ratio_N.clamp(min=-_MAX_LOG_RATIO)) - 1 + ratio_N
    return ratio_N.sum(), k3_N.sum()


def measure(outputs: Sequence[PassOutput], *, beta: float) -> dict[str, float]:
    """Means over the pairs of one optimizer step; kl is per completion, kl_k1 and kl_k3 are per token (nats).

    Margins and accuracy are of the decided pairs, each side's figures of the rows that have it; what no row has is
    left out, and so is all that needs a reference where there is none.
    """
    logps = joined([output.logps for output in outputs])
    chosen_B, rejected_B = rewards(logps, beta=beta)
    has_chosen_B, has_rejected_B = logps.num_chosen_B > 0, logps.num_rejected_B > 0
    decided_B = has_chosen_B & has_rejected_B & ~logps.tied_B
    margin_B = chosen_B - rejected_B
    columns = {
        "loss": (torch.cat([output.loss_B.detach() for output in outputs]), torch.ones_like(decided_B)),
        "reward_chosen": (chosen_B, has_chosen_B),
        "reward_rejected": (rejected_B, has_rejected_B),
        "reward_margin": (margin_B, decided_B),
        "reward_accuracy": ((chosen_B > rejected_B).to(chosen_B.dtype), decided_B),
        "logp_chosen": (logps.chosen_logp_B.detach(), has_chosen_B),
        "logp_rejected": (logps.rejected_logp_B.detach(), has_rejected_B),
        "token_logp_chosen": (logps.chosen_mean_logp_B.detach(), has_chosen_B),
        "ref_token_logp_chosen": (logps.ref_chosen_logp_B / logps.num_chosen_B.clamp(min=1), has_chosen_B),
    }
    values = {name: values_B[there_B].mean() for name, (values_B, there_B) in columns.items()}
    off_mean_B = margin_B[decided_B] - values["reward_margin"]
    values["reward_margin_spread"] = off_mean_B.square().mean().sqrt()
    num_tokens = max(1, sum(output.num_completion_tokens for output in outputs))
    sum_k1 = torch.stack([output.sum_k1 for output in outputs]).sum()
    sum_k3 = torch.stack([output.sum_k3 for output in outputs]).sum()
    values["kl"] = sum_k1 / (has_chosen_B.sum() + has_rejected_B.sum())
    values["kl_k1"], values["kl_k3"] = sum_k1 / num_tokens, sum_k3 / num_tokens
    # One transfer from the device for all of them.
    counts = [there_B.sum() for _, there_B in columns.values()]
    numbers = torch.stack([*values.values(), *counts]).double().tolist()
    measured = dict(zip(values, numbers, strict=False))
    absent = {name for name, count in zip(columns, numbers[len(values) :], strict=True) if count == 0}
    if "reward_margin" in absent:
        absent.add("reward_margin_spread")
    if not logps.has_reference:
        absent |= {"ref_token_logp_chosen", "kl", "kl_k1", "kl_k3"}
    return {name: value for name, value in measured.items() if name not in absent}


def round_means(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means weighted by pairs, over the steps that have the figure, without what depends on the clock; num_tokens is
    the round's sum."""
    sums: dict[str, float] = defaultdict(float)
    num_pairs: dict[str, float] = defaultdict(float)
    names = {name: None for step in steps for name in step if name not in ("num_pairs", "num_tokens", "tokens_per_s")}
    for name in names:
        num_pairs[name] = sum(step["num_pairs"] for step in steps if name in step)
    for step in steps:
        for name in names:
            if name in step:
                sums[name] += step[name] * step["num_pairs"] / num_pairs[name]
    return {**sums, "num_tokens": sum(step["num_tokens"] for step in steps)}
