"""Losses of one margin a pair: how much more the policy prefers the chosen answer than the reference does.

With h = log pi(w)/ref(w) - log pi(l)/ref(l) for the chosen answer w and the rejected answer l, e = label_smoothing.
f_divergence replaces the log ratio in h by the link of another divergence (see learner.losses.pair_logps.link).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.losses.pair_logps import PairLogps, link, linked_margin, smoothed_logistic


def sigmoid_loss(
    logps: PairLogps,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    f_divergence: str = "reverse_kl",
    f_alpha: float = 0.5,
) -> Tensor:
    """DPO, with label smoothing conservative DPO: loss float[B], one a pair.

        loss = -(1 - e) log sigmoid(beta h) - e log sigmoid(-beta h)
    Source: Rafailov et al., "Direct Preference Optimization" (arXiv:2305.18290), equation 7; the smoothed form is
    Mitchell's "A note on DPO with noisy preferences" (2023).
    """
    h_B = linked_margin(logps, f_divergence=f_divergence, f_alpha=f_alpha)
    return smoothed_logistic(beta * h_B, label_smoothing)


def robust_loss(
    logps: PairLogps,
    *,
    beta: float,
    label_smoothing: float,
    f_divergence: str = "reverse_kl",
    f_alpha: float = 0.5,
) -> Tensor:
    """Robust DPO, unbiased where a share e < 1/2 of the labels is flipped: float[B].

        loss = (-(1 - e) log sigmoid(beta h) + e log sigmoid(-beta h)) / (1 - 2 e)
    Source: Ray Chowdhury et al., "Provably Robust DPO" (arXiv:2403.00409), the rDPO loss.
    """
    h_B = linked_margin(logps, f_divergence=f_divergence, f_alpha=f_alpha)
    kept_B, flipped_B = F.logsigmoid(beta * h_B), F.logsigmoid(-beta * h_B)
    return (label_smoothing * flipped_B - (1 - label_smoothing) * kept_B) / (1 - 2 * label_smoothing)


def hinge_loss(logps: PairLogps, *, beta: float, f_divergence: str = "reverse_kl", f_alpha: float = 0.5) -> Tensor:
    """The rank calibration of SLiC on DPO's margin: float[B].

        loss = max(0, 1 - beta h)
    Source: Zhao et al., "SLiC-HF" (arXiv:2305.10425), and Liu et al., "Statistical Rejection
    Sampling Improves Preference Optimization" (arXiv:2309.06657), which writes
    it with the reference.
    """
    return torch.relu(1 - beta * linked_margin(logps, f_divergence=f_divergence, f_alpha=f_alpha))


def ipo_loss(
    logps: PairLogps, *, beta: float, ipo_form: str, f_divergence: str = "reverse_kl", f_alpha: float = 0.5
) -> Tensor:
    """IPO: squared distance of the margin from 1 / (2 beta), float[B].

        sum:   loss = (h - 1 / (2 beta))^2, as the paper writes it
        mean:  the same with each answer's log ratio divided by its tokens, as its authors ran it and TRL does
    Source: Azar et al., "A General Theoretical Paradigm" (arXiv:2310.12036), equation 17; beta is its tau.
    """
    chosen_B = link(logps.chosen_logratio_B, f_divergence=f_divergence, f_alpha=f_alpha)
    rejected_B = link(logps.rejected_logratio_B, f_divergence=f_divergence, f_alpha=f_alpha)
    if ipo_form == "mean":
        chosen_B = chosen_B / logps.num_chosen_B.clamp(min=1)
        rejected_B = rejected_B / logps.num_rejected_B.clamp(min=1)
    return (chosen_B - rejected_B - 1 / (2 * beta)).square()


def exo_pair_loss(
    logps: PairLogps,
    *,
    beta: float,
    label_smoothing: float,
    f_divergence: str = "reverse_kl",
    f_alpha: float = 0.5,
) -> Tensor:
    """EXO on pairs: reverse KL from the policy's choice to the smoothed label, float[B].

    With q = sigmoid(beta h), and e > 0 (else the label has no logarithm):
        loss = q (log q - log(1 - e)) + (1 - q) (log(1 - q) - log e)
    Source: Ji et al., "Towards Efficient Exact Optimization" (arXiv:2402.00856), equation 16.
    """
    margin_B = beta * linked_margin(logps, f_divergence=f_divergence, f_alpha=f_alpha)
    chosen_B = torch.sigmoid(margin_B) * (F.logsigmoid(margin_B) - math.log1p(-label_smoothing))
    return chosen_B + torch.sigmoid(-margin_B) * (F.logsigmoid(-margin_B) - math.log(label_smoothing))


def discopop_loss(
    logps: PairLogps, *, beta: float, discopop_tau: float, f_divergence: str = "reverse_kl", f_alpha: float = 0.5
) -> Tensor:
    """DiscoPOP (LRML), a loss that a language model discovered: float[B].

    With m = beta h and s = sigmoid(m / tau):
        loss = -(1 - s) log sigmoid(m) + s exp(-m)
    Source: Lu et al., "Discovering Preference Optimization Algorithms" (arXiv:2406.08414), equation 5.
    """
    margin_B = beta * linked_margin(logps, f_divergence=f_divergence, f_alpha=f_alpha)
    blend_B = torch.sigmoid(margin_B / discopop_tau)
    return torch.exp(-margin_B) * blend_B - F.logsigmoid(margin_B) * (1 - blend_B)


def aot_loss(logps: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """AOT on paired data, over the whole batch: float[B], in the order of the margins, not of the pairs.

    The policy's margins log pi(w)/pi(l) and the reference's log ref(w)/ref(l) are sorted apart from each other, and
    the i-th smallest of one is held against the i-th smallest of the other: the first distribution is driven to
    dominate the second one. One call must see the whole batch.
        loss_i = -(1 - e) log sigmoid(beta (u_(i) - v_(i))) - e log sigmoid(-beta (u_(i) - v_(i)))
    Source: Melnyk et al., "Distributional Preference Alignment via Optimal Transport" (arXiv:2406.05882).
    """
    policy_B = torch.sort(logps.chosen_logp_B - logps.rejected_logp_B).values
    reference_B = torch.sort(logps.ref_chosen_logp_B - logps.ref_rejected_logp_B).values
    return smoothed_logistic(beta * (policy_B - reference_B), label_smoothing)


def rao_kupper_loss(logps: PairLogps, *, beta: float, rao_kupper_nu: float) -> Tensor:
    """DPO with ties as an outcome of their own: float[B]; tied_B says which rows are ties.

    With d = beta h and a = log nu, nu > 1:
        chosen wins:  loss = -log sigmoid(d - a)
        tie:          loss = -log sigmoid(d - a) - log sigmoid(-d - a) - log(nu^2 - 1)
    The three probabilities (either wins, tie) add up to one. Source: Chen et al., "On Extending Direct Preference
    Optimization to Accommodate Ties" (arXiv:2409.17431), the Rao-Kupper model.
    """
    margin_B, threshold = beta * linked_margin(logps), math.log(rao_kupper_nu)
    wins_B = -F.logsigmoid(margin_B - threshold)
    loses_B = -F.logsigmoid(-margin_B - threshold)
    return torch.where(logps.tied_B, wins_B + loses_B - math.log(rao_kupper_nu**2 - 1), wins_B)
