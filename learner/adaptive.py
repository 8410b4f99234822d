"""What an objective remembers from step to step: BCO's reward shift, beta-DPO's margins, the KL controller's beta.

Pure functions of a state and a step's figures. The state is kept with the learner's, so that a resume goes on exactly.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from learner.objective_config import ObjectiveConfig

# The KL controller looks no further than this from its target, so that one odd batch moves beta only so far.
_MAX_KL_ERROR = 0.2
# beta-DPO's factor stays above this: a batch of very small margins would otherwise turn beta round.
_MIN_BETA_FACTOR = 0.01


@dataclass(frozen=True, kw_only=True)
class ObjectiveState:
    """beta_scale: the KL controller's factor on beta; reward_sum over num_rewards answers; margin_mean and
    margin_spread: running mean and standard deviation of beta-DPO's margins."""

    beta_scale: float = 1.0
    reward_sum: float = 0.0
    num_rewards: int = 0
    margin_mean: float = 0.0
    margin_spread: float = 0.0

    @property
    def reward_mean(self) -> float:
        return self.reward_sum / self.num_rewards if self.num_rewards else 0.0


def at_round_start(state: ObjectiveState, settings: ObjectiveConfig) -> ObjectiveState:
    """Rewards against the last round's policy say nothing of rewards against this one's: they are forgotten."""
    return ObjectiveState(beta_scale=state.beta_scale) if settings.reference == "round_start" else state


def advanced(
    state: ObjectiveState, settings: ObjectiveConfig, values: Mapping[str, float], *, num_pairs: int
) -> ObjectiveState:
    """The state after a step whose figures are `values` (those of learner.metrics.measure).

    BCO: mean over all answers so far. beta-DPO: m <- momentum m + (1 - momentum) mean, likewise the deviation.
    KL target: beta <- beta (1 + gain clip(kl / target - 1, -0.2, 0.2)), Ziegler et al. (arXiv:1909.08593), section 2.2.
    The step's kl is measured on the pairs' own answers, which the round's policy sampled.
    """
    if any(term.name == "bco_pair" for term in settings.losses):
        both = values["reward_chosen"] + values["reward_rejected"]
        state = replace(
            state, reward_sum=state.reward_sum + both * num_pairs, num_rewards=state.num_rewards + 2 * num_pairs
        )
    if settings.beta_dpo_alpha:
        kept = settings.beta_dpo_momentum
        state = replace(
            state,
            margin_mean=kept * state.margin_mean + (1 - kept) * values["reward_margin"],
            margin_spread=kept * state.margin_spread + (1 - kept) * values["reward_margin_spread"],
        )
    if settings.kl_target is not None and math.isfinite(values["kl"]):
        error = min(_MAX_KL_ERROR, max(-_MAX_KL_ERROR, values["kl"] / settings.kl_target - 1))
        state = replace(state, beta_scale=state.beta_scale * (1 + settings.kl_gain * error))
    return state


def batch_beta(mean_margin: float, *, beta: float, settings: ObjectiveConfig, state: ObjectiveState) -> float:
    """beta-DPO's beta of one batch: beta (1 + alpha (mean margin - running mean of the batches before)).

    mean_margin: of the batch's rewards at `beta`. Source: Wu et al., "beta-DPO" (arXiv:2407.08639), batch level.
    """
    lead = mean_margin - state.margin_mean
    return beta * max(_MIN_BETA_FACTOR, 1 + settings.beta_dpo_alpha * lead)


def kept_weights(margin_B: Tensor, *, settings: ObjectiveConfig, state: ObjectiveState) -> Tensor:
    """beta-DPO's filter: B / num_kept for the pairs it keeps and 0 for the others, float[B].

    A share beta_dpo_keep is drawn without replacement, in proportion to a normal density around the running mean of
    margins, by torch's CPU generator. Source: Wu et al., "beta-DPO" (arXiv:2407.08639), beta-guided filtering.
    """
    num_kept = max(1, math.floor(settings.beta_dpo_keep * len(margin_B) + 0.5))
    distance_B = margin_B.detach().double().cpu() - state.margin_mean
    spread = state.margin_spread or max(1.0, float(distance_B.abs().max()))
    # The largest of log density plus Gumbel noise are such a draw, and no density underflows.
    noise_B = -torch.log(torch.empty_like(distance_B).exponential_())
    kept = torch.topk(noise_B - 0.5 * (distance_B / spread).square(), num_kept).indices
    weights_B = torch.zeros_like(margin_B)
    weights_B[kept.to(margin_B.device)] = len(margin_B) / num_kept
    return weights_B
