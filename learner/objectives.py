"""What the configuration may name as `learner.loss`, and what each of them needs; the functions are in learner.loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

LossName = Literal[
    "sigmoid", "robust", "ipo", "hinge", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "aot", "apo_zero",
    "apo_down", "discopop", "sigmoid_norm", "simpo", "orpo", "r_dpo", "ld_dpo", "dpop", "chi_po", "xpo",
    "rao_kupper", "kto",
]  # fmt: skip
Terms = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """options: the settings that the loss takes beside beta, under their names in the configuration.

    terms: what it takes of the batch (fields of learner.loss.BatchTerms). whole_batch: one call must see all pairs of
    an optimizer step. ties, one_sided: rows that it can learn from and a loss of decided pairs cannot.
    """

    doc: str
    options: Terms = ()
    terms: Terms = ()
    needs_reference: bool = True
    whole_batch: bool = False
    ties: bool = False
    one_sided: bool = False


_LINK = ("f_divergence", "f_alpha")
_SMOOTH = ("label_smoothing",)

OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        "sigmoid": Objective(doc="DPO, with label_smoothing cDPO", options=_SMOOTH + _LINK),
        "robust": Objective(doc="rDPO, unbiased under flipped labels", options=_SMOOTH + _LINK),
        "ipo": Objective(doc="IPO, squared margin", options=("ipo_form", *_LINK)),
        "hinge": Objective(doc="SLiC", options=_LINK),
        "exo_pair": Objective(doc="EXO, reverse KL to the label", options=_SMOOTH + _LINK),
        "nca_pair": Objective(doc="NCA, noise contrast"),
        "bco_pair": Objective(doc="BCO, binary classifier", terms=("reward_shift",)),
        "sppo_hard": Objective(doc="SPPO with hard labels"),
        "aot": Objective(doc="AOT, sorts the margins of the whole batch", options=_SMOOTH, whole_batch=True),
        "apo_zero": Objective(doc="APO, chosen answers better than the policy's"),
        "apo_down": Objective(doc="APO, chosen answers worse than the policy's"),
        "discopop": Objective(doc="DiscoPOP", options=("discopop_tau", *_LINK)),
        "sigmoid_norm": Objective(doc="DPO a token", options=_SMOOTH + _LINK),
        "simpo": Objective(doc="SimPO, no reference", options=("simpo_gamma", *_SMOOTH), needs_reference=False),
        "orpo": Objective(doc="ORPO, no reference, beta is lambda", needs_reference=False),
        "r_dpo": Objective(doc="DPO with a length margin", options=("length_margin",)),
        "ld_dpo": Objective(doc="DPO, less weight beyond the common length", options=("ld_alpha", *_SMOOTH)),
        "dpop": Objective(doc="DPO-Positive (Smaug)", options=("dpop_lambda",)),
        "chi_po": Objective(doc="chi-PO, KL and chi-squared", options=("chi_po_max_reward",)),
        "xpo": Objective(doc="XPO, DPO with optimism", options=("xpo_alpha", *_SMOOTH)),
        "rao_kupper": Objective(doc="DPO with ties as rows", options=("rao_kupper_nu",), ties=True),
        "kto": Objective(
            doc="KTO, also rows with one answer",
            options=("desirable_weight", "undesirable_weight"),
            terms=("kl_estimate", "answers_per_row"),
            one_sided=True,
        ),
    }
)
# Settings that only some losses take, whatever other use they have.
LOSS_OPTIONS = tuple(sorted({option for objective in OBJECTIVES.values() for option in objective.options}))


def described() -> str:
    """One line that says what every name is."""
    return "; ".join(f"{name}: {objective.doc}" for name, objective in OBJECTIVES.items())
