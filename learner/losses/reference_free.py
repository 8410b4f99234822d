"""Losses of the policy alone. With m(y) = log pi(y) / |y| for the chosen answer w and the rejected answer l."""

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.losses.pair_logps import PairLogps, smoothed_logistic

# Odds of a certain answer would be infinite; this far from it fp32 still tells them apart.
_LARGEST_MEAN_LOGP = -1e-6


def simpo_loss(logps: PairLogps, *, beta: float, simpo_gamma: float, label_smoothing: float = 0.0) -> Tensor:
    """SimPO: log-probability a token as the reward, with a margin to be won by: float[B].

        loss = -log sigmoid(beta (m(w) - m(l)) - gamma), smoothed like sigmoid
    The paper has beta at 2 to 10. Source: Meng et al., "SimPO" (arXiv:2405.14734), equation 6.
    """
    margin_B = beta * (logps.chosen_mean_logp_B - logps.rejected_mean_logp_B) - simpo_gamma
    return smoothed_logistic(margin_B, label_smoothing)


def orpo_loss(logps: PairLogps, *, beta: float) -> Tensor:
    """ORPO: likelihood of the chosen answer plus beta times the log odds ratio's loss, float[B].

    With odds(y) = exp m(y) / (1 - exp m(y)):
        loss = -m(w) - beta log sigmoid(log odds(w) - log odds(l))
    beta is the paper's lambda; only answer tokens are trained. Source: Hong et al., "ORPO" (arXiv:2403.07691),
    equations 6 and 7.
    """

    def log_odds(mean_logp_B: Tensor) -> Tensor:
        bounded_B = mean_logp_B.clamp(max=_LARGEST_MEAN_LOGP)
        return bounded_B - torch.log(-torch.expm1(bounded_B))

    ratio_B = log_odds(logps.chosen_mean_logp_B) - log_odds(logps.rejected_mean_logp_B)
    return nll_loss(logps) - beta * F.logsigmoid(ratio_B)


def nll_loss(logps: PairLogps) -> Tensor:
    """Negative log-likelihood a token of the chosen answers, float[B]; zero for ties and where none was chosen.

    The term that RPO adds to DPO, times nll_weight. Source: Pang et al., "Iterative Reasoning Preference
    Optimization" (arXiv:2404.19733), equation 1.
    """
    return -logps.chosen_mean_logp_B * ~logps.tied_B
