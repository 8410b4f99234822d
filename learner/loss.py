"""The table of preference losses, each a pure function of pairs' log-probabilities, and their weighted sum."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from learner.losses.margin import (
    aot_loss,
    discopop_loss,
    exo_pair_loss,
    hinge_loss,
    ipo_loss,
    rao_kupper_loss,
    robust_loss,
    sigmoid_loss,
)
from learner.losses.pair_logps import PairLogps
from learner.losses.pointwise import (
    apo_down_loss,
    apo_zero_loss,
    bco_pair_loss,
    kto_loss,
    nca_pair_loss,
    sppo_hard_loss,
)
from learner.losses.reference_free import nll_loss, orpo_loss, simpo_loss
from learner.losses.regularised import (
    chi_po_loss,
    dpop_loss,
    ld_dpo_loss,
    r_dpo_loss,
    sigmoid_norm_loss,
    xpo_loss,
)
from learner.losses.weights import staleness_weights, wpo_weights
from learner.objective_config import ObjectiveConfig
from learner.objectives import OBJECTIVES

PreferenceLoss = Callable[..., Tensor]

# name -> (PairLogps, *, beta, its own options and terms) -> float[B]; learner.objectives says which those are.
LOSSES: Mapping[str, PreferenceLoss] = MappingProxyType(
    {
        "sigmoid": sigmoid_loss,
        "robust": robust_loss,
        "ipo": ipo_loss,
        "hinge": hinge_loss,
        "exo_pair": exo_pair_loss,
        "nca_pair": nca_pair_loss,
        "bco_pair": bco_pair_loss,
        "sppo_hard": sppo_hard_loss,
        "aot": aot_loss,
        "apo_zero": apo_zero_loss,
        "apo_down": apo_down_loss,
        "discopop": discopop_loss,
        "sigmoid_norm": sigmoid_norm_loss,
        "simpo": simpo_loss,
        "orpo": orpo_loss,
        "r_dpo": r_dpo_loss,
        "ld_dpo": ld_dpo_loss,
        "dpop": dpop_loss,
        "chi_po": chi_po_loss,
        "xpo": xpo_loss,
        "rao_kupper": rao_kupper_loss,
        "kto": kto_loss,
    }
)


@dataclass(frozen=True, kw_only=True)
class BatchTerms:
    """What is the same for all pairs of one optimizer step: the beta in force, and what BCO and KTO take."""

    beta: float
    reward_shift: float = 0.0
    kl_estimate: float = 0.0
    answers_per_row: float = 2.0


def total_loss(logps: PairLogps, settings: ObjectiveConfig, terms: BatchTerms) -> Tensor:
    """The configured objective, float[B]: pair weights times the weighted sum of losses, plus nll_weight times NLL.

    The weighted sum is MPO's (Wang et al., arXiv:2411.10442).
    """
    total_B = torch.zeros_like(logps.chosen_logp_B)
    for part in settings.losses:
        objective = OBJECTIVES[part.name]
        arguments = {option: getattr(settings, option) for option in objective.options}
        arguments |= {term: getattr(terms, term) for term in objective.terms}
        total_B = total_B + part.weight * LOSSES[part.name](logps, beta=terms.beta, **arguments)
    if settings.wpo:
        total_B = total_B * wpo_weights(logps, alignment=settings.wpo_alignment)
    if settings.staleness_weights != "none":
        total_B = total_B * staleness_weights(logps, form=settings.staleness_weights, clip=settings.staleness_clip)
    return total_B + settings.nll_weight * nll_loss(logps) if settings.nll_weight else total_B


def rewards(logps: PairLogps, *, beta: float) -> tuple[Tensor, Tensor]:
    """Implicit rewards of the chosen and the rejected completions, each float[B], without gradient.

    beta log pi/ref; without a reference SimPO's, beta times the log-probability a token.
    """
    if not logps.has_reference:
        return beta * logps.chosen_mean_logp_B.detach(), beta * logps.rejected_mean_logp_B.detach()
    return beta * logps.chosen_logratio_B.detach(), beta * logps.rejected_logratio_B.detach()
