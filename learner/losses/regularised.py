"""DPO with a further term in its margin or beside it: length, likelihood of the chosen answer, chi-squared, optimism.

With h = log pi(w)/ref(w) - log pi(l)/ref(l) for the chosen answer w and the rejected answer l of |w| and |l| tokens.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from learner.losses.margin import sigmoid_loss
from learner.losses.pair_logps import PairLogps, link, linked_margin, smoothed_logistic

# The cut of the exponential in the paper's experiments: its gradient is gone there, the log ratio's stays.
_MAX_CHI_EXPONENT = 20.0


def sigmoid_norm_loss(
    logps: PairLogps,
    *,
    beta: float,
    label_smoothing: float = 0.0,
    f_divergence: str = "reverse_kl",
    f_alpha: float = 0.5,
) -> Tensor:
    """Length-normalised DPO: each answer's log ratio is divided by its tokens, so beta is some tens larger: float[B].

        loss = -log sigmoid(beta (log pi(w)/ref(w) / |w| - log pi(l)/ref(l) / |l|)), smoothed like sigmoid
    Source: Lambert et al., "Tulu 3" (arXiv:2411.15124), length-normalised DPO.
    """
    chosen_B = link(logps.chosen_logratio_B, f_divergence=f_divergence, f_alpha=f_alpha)
    rejected_B = link(logps.rejected_logratio_B, f_divergence=f_divergence, f_alpha=f_alpha)
    margin_B = chosen_B / logps.num_chosen_B.clamp(min=1) - rejected_B / logps.num_rejected_B.clamp(min=1)
    return smoothed_logistic(beta * margin_B, label_smoothing)


def r_dpo_loss(logps: PairLogps, *, beta: float, length_margin: float) -> Tensor:
    """R-DPO: the reward is charged `length_margin` a token, float[B].

        loss = -log sigmoid(beta h + length_margin (|w| - |l|))
    A longer chosen answer thus has part of its margin already. Source: Park et al., "Disentangling Length from
    Quality in Direct Preference Optimization" (arXiv:2403.19159); the sign follows from its reward,
    r(y) - length_margin |y|.
    """
    return -F.logsigmoid(beta * linked_margin(logps) + length_margin * (logps.num_chosen_B - logps.num_rejected_B))


def ld_dpo_loss(logps: PairLogps, *, beta: float, ld_alpha: float, label_smoothing: float = 0.0) -> Tensor:
    """LD-DPO: what an answer has beyond the other one's length counts only ld_alpha as much, float[B].

    With log p'(y) = sum over the first min(|w|, |l|) tokens + ld_alpha * sum over the rest, for policy and reference:
        loss = -log sigmoid(beta (log pi'(w)/ref'(w) - log pi'(l)/ref'(l))), smoothed like sigmoid
    ld_alpha 1 is DPO. Source: Liu et al., "Length Desensitization in DPO" (arXiv:2409.06411).
    """

    def desensitised(whole_B: Tensor, shared_B: Tensor) -> Tensor:
        return shared_B + ld_alpha * (whole_B - shared_B)

    chosen_B = desensitised(logps.chosen_logratio_B, logps.chosen_shared_logp_B - logps.ref_chosen_shared_logp_B)
    rejected_B = desensitised(
        logps.rejected_logratio_B, logps.rejected_shared_logp_B - logps.ref_rejected_shared_logp_B
    )
    return smoothed_logistic(beta * (chosen_B - rejected_B), label_smoothing)


def dpop_loss(logps: PairLogps, *, beta: float, dpop_lambda: float) -> Tensor:
    """DPO-Positive: a chosen answer less likely than under the reference is charged, float[B].

        loss = -log sigmoid(beta (h - lambda max(0, log ref(w)/pi(w))))
    Source: Pal et al., "Smaug" (arXiv:2402.13228), equation 3.
    """
    fallen_B = torch.relu(-logps.chosen_logratio_B)
    return -F.logsigmoid(beta * (linked_margin(logps) - dpop_lambda * fallen_B))


def chi_po_loss(logps: PairLogps, *, beta: float, chi_po_max_reward: float | None) -> Tensor:
    """chi-PO: the link of KL plus chi-squared, which holds on to the reference's support, float[B].

    With phi(u) = u + log u and R = chi_po_max_reward, None for no clipping:
        loss = -log sigmoid(clip(beta (phi(pi(w)/ref(w)) - phi(pi(l)/ref(l))), -2 R, 2 R))
    Source: Huang et al., "Correcting the Mythos of KL-Regularization" (arXiv:2407.13399), algorithm 1.
    """

    def phi(logratio_B: Tensor) -> Tensor:
        return torch.exp(logratio_B.clamp(max=_MAX_CHI_EXPONENT)) + logratio_B

    margin_B = beta * (phi(logps.chosen_logratio_B) - phi(logps.rejected_logratio_B))
    if chi_po_max_reward is not None:
        margin_B = margin_B.clamp(-2 * chi_po_max_reward, 2 * chi_po_max_reward)
    return -F.logsigmoid(margin_B)


def xpo_loss(logps: PairLogps, *, beta: float, xpo_alpha: float, label_smoothing: float = 0.0) -> Tensor:
    """XPO: DPO with optimism, which lowers the likelihood of what was sampled already, float[B].

        loss = sigmoid_loss + xpo_alpha log pi(y)
    The paper draws y from the sampling policy, here both answers of the pair come from it: the term is the mean of
    log pi(w) and log pi(l). Source: Xie et al., "Exploratory Preference Optimization" (arXiv:2405.21046), algorithm 1.
    """
    optimism_B = xpo_alpha * (logps.chosen_logp_B + logps.rejected_logp_B) / 2
    return sigmoid_loss(logps, beta=beta, label_smoothing=label_smoothing) + optimism_B
