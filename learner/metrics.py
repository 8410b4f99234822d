"""What a step measured, as plain numbers, and a round's means."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.loss import PairLogps, rewards

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


def token_kl_sums(logps_BT: Tensor, ref_logps_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over completion tokens of the estimators k1 = log pi/ref and k3 = ref/pi - 1 + log pi/ref.

    Source: Schulman, "Approximating KL divergence" (2020). The completions were sampled by the round's policy.
    """
    ratio_N = (logps_BT.detach() - ref_logps_BT)[mask_BT]
    k3_N = torch.exp(-ratio_N.clamp(min=-_MAX_LOG_RATIO)) - 1 + ratio_N
    return ratio_N.sum(), k3_N.sum()


def measure(outputs: Sequence[PassOutput], *, beta: float) -> dict[str, float]:
    """Means over the pairs of one optimizer step; kl is per completion, kl_k1 and kl_k3 are per token (nats)."""
    chosen, rejected = zip(*(rewards(output.logps, beta=beta) for output in outputs), strict=True)
    chosen_B, rejected_B = torch.cat(chosen), torch.cat(rejected)
    num_tokens = max(1, sum(output.num_completion_tokens for output in outputs))
    sum_k1 = torch.stack([output.sum_k1 for output in outputs]).sum()
    sum_k3 = torch.stack([output.sum_k3 for output in outputs]).sum()
    values = {
        "loss": torch.cat([output.loss_B.detach() for output in outputs]).mean(),
        "reward_chosen": chosen_B.mean(),
        "reward_rejected": rejected_B.mean(),
        "reward_margin": (chosen_B - rejected_B).mean(),
        "reward_accuracy": (chosen_B > rejected_B).float().mean(),
        "logp_chosen": torch.cat([output.logps.chosen_logp_B.detach() for output in outputs]).mean(),
        "logp_rejected": torch.cat([output.logps.rejected_logp_B.detach() for output in outputs]).mean(),
        "kl": sum_k1 / (2 * len(chosen_B)),
        "kl_k1": sum_k1 / num_tokens,
        "kl_k3": sum_k3 / num_tokens,
    }
    # One transfer from the device for all of them.
    return dict(zip(values, torch.stack(list(values.values())).double().tolist(), strict=True))


def round_means(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Means weighted by pairs, without what depends on the clock; num_tokens is the round's sum."""
    sums: dict[str, float] = defaultdict(float)
    num_pairs = sum(step["num_pairs"] for step in steps)
    for step in steps:
        for name, value in step.items():
            if name not in ("num_pairs", "num_tokens", "tokens_per_s"):
                sums[name] += value * step["num_pairs"] / num_pairs
    return {**sums, "num_tokens": sum(step["num_tokens"] for step in steps)}
