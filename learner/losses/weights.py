"""Weights of pairs, without gradient: how likely the policy itself is to answer like this."""

import torch
from torch import Tensor

from learner.losses.pair_logps import PairLogps


def wpo_weights(logps: PairLogps, *, alignment: str = "none") -> Tensor:
    """Weights float[B] of off-policy pairs: the product of both answers' mean probability a token.

        w = exp(a(w)) exp(a(l)), and for alignment
        none:     a(y) = log pi(y) / |y|
        sampled:  a(y) = (log pi(y) - sum_t log sum_v pi(v | y_<t)^2) / |y|
    The latter measures each token against the mean probability of one that the policy would draw there itself, so that
    its own answers weigh about 1, and as much where it is unsure as where it is certain; a weight may be above 1. A
    missing side weighs 1. Source: Zhou et al., "WPO" (arXiv:2406.11827), equation 2, and its sampled alignment.
    """
    exponent_B = (logps.chosen_mean_logp_B + logps.rejected_mean_logp_B).detach()
    if alignment == "sampled":
        exponent_B = exponent_B - logps.chosen_certainty_B / logps.num_chosen_B.clamp(min=1)
        exponent_B = exponent_B - logps.rejected_certainty_B / logps.num_rejected_B.clamp(min=1)
    return torch.exp(exponent_B)


def staleness_weights(logps: PairLogps, *, form: str, clip: float) -> Tensor:
    """Truncated importance weights float[B] of pairs that an older policy sampled.

    With s(y) the log-probability of y as it was sampled, c = clip, and for form
        sequence:  w = min(c, pi(w)/s(w)) min(c, pi(l)/s(l))
        token:     the same of each ratio's |y|-th root, which long answers do not drive to 0 or c
    A missing side weighs 1. Engines report probabilities at their sampling temperature and top-p, so exact weights
    take temperature 1 and top-p 1. Source: Ionides, "Truncated Importance Sampling" (2008); the root is GSPO's
    (arXiv:2507.18071).
    """
    weights_B = torch.ones_like(logps.chosen_logp_B)
    for logp_B, sampled_B, num_B in (
        (logps.chosen_logp_B, logps.sampled_chosen_logp_B, logps.num_chosen_B),
        (logps.rejected_logp_B, logps.sampled_rejected_logp_B, logps.num_rejected_B),
    ):
        ratio_B = logp_B.detach() - sampled_B
        if form == "token":
            ratio_B = ratio_B / num_B.clamp(min=1)
        weights_B = weights_B * torch.exp(ratio_B).clamp(max=clip)
    return weights_B
