"""Losses that move each answer by itself: up if it was chosen, down if it was rejected.

With r(y) = log pi(y)/ref(y), for the chosen answer w and the rejected answer l.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.losses.pair_logps import PairLogps


def nca_pair_loss(logps: PairLogps, *, beta: float) -> Tensor:
    """NCA on pairs: noise contrast of each answer against the reference, which keeps the chosen one likely: float[B].

        loss = -log sigmoid(beta r(w)) - 1/2 log sigmoid(-beta r(w)) - 1/2 log sigmoid(-beta r(l))
    Source: Chen et al., "Noise Contrastive Alignment" (arXiv:2402.05369), NCA for two answers.
    """
    chosen_B, rejected_B = beta * logps.chosen_logratio_B, beta * logps.rejected_logratio_B
    return -F.logsigmoid(chosen_B) - 0.5 * (F.logsigmoid(-chosen_B) + F.logsigmoid(-rejected_B))


def bco_pair_loss(logps: PairLogps, *, beta: float, reward_shift: float) -> Tensor:
    """BCO: a classifier of chosen against rejected whose logit is the reward less a shift, float[B].

        loss = -log sigmoid(beta r(w) - shift) - log sigmoid(-(beta r(l) - shift))
    The shift is the mean reward of all answers so far, chosen and rejected; the caller keeps it (see
    learner.adaptive). Zero gives TRL's form. Source: Jung et al., "Binary Classifier Optimization"
    (arXiv:2404.04656).
    """
    chosen_B = beta * logps.chosen_logratio_B - reward_shift
    rejected_B = beta * logps.rejected_logratio_B - reward_shift
    return -F.logsigmoid(chosen_B) - F.logsigmoid(-rejected_B)


def sppo_hard_loss(logps: PairLogps, *, beta: float) -> Tensor:
    """SPPO with a win probability of 1 for the chosen answer and 0 for the rejected one: float[B].

        loss = (r(w) - 1 / (2 beta))^2 + (r(l) + 1 / (2 beta))^2
    Source: Wu et al., "Self-Play Preference Optimization" (arXiv:2405.00675), equation 4.7 with hard labels;
    1 / beta is its eta.
    """
    target = 1 / (2 * beta)
    return (logps.chosen_logratio_B - target).square() + (logps.rejected_logratio_B + target).square()


def apo_zero_loss(logps: PairLogps, *, beta: float) -> Tensor:
    """APO-zero, for chosen answers better than the policy's own: chosen up, rejected down, float[B].

        loss = 1 - sigmoid(beta r(w)) + sigmoid(beta r(l))
    Source: D'Oosterlinck et al., "Anchored Preference Optimization" (arXiv:2408.06266), equation 7.
    """
    return torch.sigmoid(-beta * logps.chosen_logratio_B) + torch.sigmoid(beta * logps.rejected_logratio_B)


def apo_down_loss(logps: PairLogps, *, beta: float) -> Tensor:
    """APO-down, for chosen answers worse than the policy's own: chosen down, rejected further down, float[B].

        loss = sigmoid(beta r(w)) + 1 - sigmoid(beta (r(w) - r(l)))
    Source: D'Oosterlinck et al., "Anchored Preference Optimization" (arXiv:2408.06266), equation 8.
    """
    margin_B = beta * (logps.chosen_logratio_B - logps.rejected_logratio_B)
    return torch.sigmoid(beta * logps.chosen_logratio_B) + torch.sigmoid(-margin_B)


def kto_loss(
    logps: PairLogps,
    *,
    beta: float,
    desirable_weight: float,
    undesirable_weight: float,
    kl_estimate: float,
    answers_per_row: float,
) -> Tensor:
    """KTO: each answer against the batch's KL estimate z0; rows may have one side only (0 tokens). float[B].

        desirable (chosen):      desirable_weight (1 - sigmoid(beta (r - z0)))
        undesirable (rejected):  undesirable_weight (1 - sigmoid(beta (z0 - r)))
    A row's loss is the sum over its answers, divided by the batch's mean number of answers a row: the batch's mean is
    then the mean over its answers. z0 = max(0, mean of r over prompts with the answers of others), without gradient.
    Source: Ethayarajh et al., "KTO" (arXiv:2402.01306), equation 7.
    """
    chosen_B = desirable_weight * torch.sigmoid(beta * (kl_estimate - logps.chosen_logratio_B))
    rejected_B = undesirable_weight * torch.sigmoid(beta * (logps.rejected_logratio_B - kl_estimate))
    return (chosen_B * (logps.num_chosen_B > 0) + rejected_B * (logps.num_rejected_B > 0)) / answers_per_row
