"""The settings of the `learner:` section that say what is learnt: losses, their options, reference, beta, weights."""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Literal, Self

from pydantic import ValidationError, field_validator, model_validator

from learner.objectives import LOSS_OPTIONS, OBJECTIVES, LossName, described
from rollout.types import Settings, setting

# Settings that do nothing unless another one has this value, or any value at all.
_USED_WITH = (
    ("f_alpha", "f_divergence", "alpha"),
    ("wpo_alignment", "wpo", "given"),
    ("staleness_clip", "staleness_weights", "given"),
    ("ema_alpha", "reference", "ema"),
    ("ema_steps", "reference", "ema"),
    ("beta_dpo_momentum", "beta_dpo_alpha", "given"),
    ("beta_dpo_keep", "beta_dpo_alpha", "given"),
    ("kl_gain", "kl_target", "given"),
)


class LossTerm(Settings):
    """One loss of a weighted mixture."""

    name: LossName = setting(change="per_round", doc="the loss")
    weight: float = setting(1.0, change="per_round", gt=0, doc="its factor in the sum")


class ObjectiveConfig(Settings):
    """What is learnt from a round's preference pairs."""

    loss: LossName | tuple[LossTerm, ...] = setting(
        "sigmoid", change="per_round", doc=f"preference loss, or a list of {{name, weight}}; {described()}"
    )
    beta: float = setting(0.1, change="per_round", gt=0, doc="strength of the pull towards the reference")
    label_smoothing: float = setting(
        0.0, change="per_round", ge=0, lt=0.5, doc="assumed probability that a preference is the wrong way round"
    )
    nll_weight: float = setting(
        0.0, change="per_round", ge=0, doc="adds so much of the chosen answers' negative log-likelihood a token (RPO)"
    )
    f_divergence: Literal["reverse_kl", "forward_kl", "jensen_shannon", "alpha"] = setting(
        "reverse_kl", change="per_round", doc="divergence from the reference, of losses of a margin (f-DPO)"
    )
    f_alpha: float = setting(0.5, change="per_round", gt=0, lt=1, doc="of f_divergence alpha: 0 reverse KL, 1 forward")
    ipo_form: Literal["mean", "sum"] = setting(
        "mean", change="per_round", doc="log ratios of ipo: a token, as run by its authors, or summed as in the paper"
    )
    discopop_tau: float = setting(0.05, change="per_round", gt=0, doc="temperature of discopop's blend")
    simpo_gamma: float = setting(0.5, change="per_round", ge=0, doc="margin that simpo wants to win by")
    length_margin: float = setting(0.01, change="per_round", doc="what r_dpo charges a token (its alpha)")
    ld_alpha: float = setting(
        0.5, change="per_round", ge=0, le=1, doc="weight in ld_dpo of what is beyond the shorter answer's length"
    )
    dpop_lambda: float = setting(50.0, change="per_round", ge=0, doc="charge of dpop for a falling chosen answer")
    chi_po_max_reward: float | None = setting(
        None, change="per_round", gt=0, doc="chi_po clips margins at twice this; none: no clipping"
    )
    xpo_alpha: float = setting(1e-5, change="per_round", ge=0, doc="optimism of xpo")
    rao_kupper_nu: float = setting(
        3.0, change="per_round", gt=1, doc="how readily rao_kupper ties; it learns ties that judge.pairing keeps"
    )
    desirable_weight: float = setting(1.0, change="per_round", ge=0, doc="weight of chosen answers in kto")
    undesirable_weight: float = setting(1.0, change="per_round", ge=0, doc="weight of rejected answers in kto")
    bco_shift: Literal["running_mean", "none"] = setting(
        "running_mean", change="per_round", doc="bco_pair's reward shift: mean of all rewards so far, or none as in TRL"
    )
    wpo: bool = setting(False, change="per_round", doc="weigh pairs by both answers' mean probability a token (WPO)")
    wpo_alignment: Literal["sampled", "none"] = setting(
        "sampled",
        change="per_round",
        doc="sampled: wpo measures an answer against what the policy gives its own draws, which then weigh about 1",
    )
    staleness_weights: Literal["none", "token", "sequence"] = setting(
        "none", change="per_round", doc="importance weights, policy over sampling policy: a token's, or a sequence's"
    )
    staleness_clip: float = setting(2.0, change="per_round", ge=1, doc="importance weights of an answer end here")
    reference: Literal["base", "round_start", "ema", "none"] = setting(
        "base",
        change="per_round",
        doc="frozen reference: the run's base policy, the policy at the round's start, a moving average that follows "
        "the policy (TR-DPO), or none",
    )
    ema_alpha: float = setting(
        0.6, change="per_round", gt=0, le=1, doc="share of the policy in each update of reference ema; 1 copies it"
    )
    ema_steps: int = setting(64, change="per_round", ge=1, doc="optimizer steps between updates of reference ema")
    beta_dpo_alpha: float = setting(
        0.0, change="per_round", ge=0, doc="beta of each batch follows its margins (beta-DPO, 0.6 there); 0: fixed beta"
    )
    beta_dpo_momentum: float = setting(
        0.9, change="per_round", ge=0, lt=1, doc="memory of beta-DPO's running mean of margins"
    )
    beta_dpo_keep: float = setting(
        1.0, change="per_round", gt=0, le=1, doc="share of a batch that beta-DPO's filter keeps (0.8 there)"
    )
    kl_target: float | None = setting(
        None, change="per_round", gt=0, doc="nats an answer: beta is adapted so that policy and reference stay so close"
    )
    kl_gain: float = setting(0.1, change="per_round", gt=0, le=1, doc="how fast beta goes to the kl_target, a step")

    @property
    def losses(self) -> tuple[LossTerm, ...]:
        """The mixture; a single loss has weight 1."""
        return self.loss if isinstance(self.loss, tuple) else (LossTerm(name=self.loss),)

    @property
    def needs_reference(self) -> bool:
        return any(OBJECTIVES[term.name].needs_reference for term in self.losses)

    @property
    def one_sided(self) -> bool:
        """Whether all losses learn from rows with one answer."""
        return all(OBJECTIVES[term.name].one_sided for term in self.losses)

    @property
    def weighs_certainty(self) -> bool:
        """Whether the weights of pairs take the policy's certainty at every token."""
        return self.wpo and self.wpo_alignment == "sampled"

    @property
    def whole_batch(self) -> bool:
        """Whether the loss of a pair depends on the other pairs of its optimizer step."""
        return self.beta_dpo_alpha > 0 or any(OBJECTIVES[term.name].whole_batch for term in self.losses)

    @property
    def estimates_kl(self) -> bool:
        """Whether a loss takes an estimate of the KL from mismatched answers."""
        return any("kl_estimate" in OBJECTIVES[term.name].terms for term in self.losses)

    @field_validator("loss", mode="before")
    @classmethod
    def _known_losses(cls, loss: Any) -> Any:
        terms = loss if isinstance(loss, Sequence) and not isinstance(loss, str) else [loss]
        if not terms:
            raise ValueError("got an empty list of losses, expected a name or a list of {name, weight}")
        for term in terms:
            name = term.get("name") if isinstance(term, Mapping) else getattr(term, "name", term)
            if name not in OBJECTIVES:
                near = get_close_matches(str(name), OBJECTIVES, n=1)
                hint = f", did you mean {near[0]}?" if near else f", expected one of {', '.join(OBJECTIVES)}"
                raise ValueError(f"unknown loss {name!r}{hint}")
        return loss if isinstance(loss, str) else tuple(_term(term) for term in terms)

    @model_validator(mode="after")
    def _options_are_used(self) -> Self:
        names = [term.name for term in self.losses]
        used = {option for name in names for option in OBJECTIVES[name].options}
        for option in LOSS_OPTIONS:
            if option not in used and self._is_set(option):
                takers = [name for name, objective in OBJECTIVES.items() if option in objective.options]
                self._refuse(option, f"loss {' + '.join(names)}", f"one of {', '.join(takers)}")
        for option, other, expected in _USED_WITH:
            value = getattr(self, other)
            used_here = value not in (0, None, "none") if expected == "given" else value == expected
            if not used_here and self._is_set(option):
                self._refuse(option, f"{other}: {value}", f"{other}: {expected}" if expected != "given" else "a value")
        if self.bco_shift != "running_mean" and "bco_pair" not in names:
            self._refuse("bco_shift", f"loss {' + '.join(names)}", "bco_pair")
        if "exo_pair" in names and self.label_smoothing == 0:
            raise ValueError("loss exo_pair needs a label_smoothing above 0: got 0.0, expected for instance 1e-3")
        return self

    @model_validator(mode="after")
    def _reference_fits(self) -> Self:
        names = [term.name for term in self.losses]
        if self.reference == "none" and self.needs_reference:
            first = next(name for name in names if OBJECTIVES[name].needs_reference)
            free = ", ".join(name for name, objective in OBJECTIVES.items() if not objective.needs_reference)
            raise ValueError(f"got reference: none with loss {first}, expected a reference, or only of {free}")
        for option, on in (("kl_target", self.kl_target is not None), ("beta_dpo_alpha", self.beta_dpo_alpha > 0)):
            if on and not self.needs_reference:
                raise ValueError(f"{option} is measured against a reference, got loss {' + '.join(names)} without one")
        marginless = [name for name in names if OBJECTIVES[name].ties or OBJECTIVES[name].one_sided]
        if self.beta_dpo_alpha and marginless:
            raise ValueError(
                f"beta_dpo_alpha follows margins of decided pairs, got loss {marginless[0]}, which also takes other "
                "rows; leave beta_dpo_alpha out, or choose a loss of pairs"
            )
        weighted = self.wpo or self.staleness_weights != "none" or self.beta_dpo_keep < 1
        if "aot" in names and weighted:
            raise ValueError(
                "loss aot sorts the batch, so that weights of pairs have no place in it; leave out wpo, "
                "staleness_weights and beta_dpo_keep, or choose another loss"
            )
        return self

    def _is_set(self, option: str) -> bool:
        return bool(getattr(self, option) != type(self).model_fields[option].default)

    def _refuse(self, option: str, got: str, expected: str) -> None:
        value = getattr(self, option)
        raise ValueError(f"{option}: {value} has no effect: got {got}, expected {expected}; leave {option} out")


def _term(term: Any) -> LossTerm:
    try:
        return LossTerm.model_validate({"name": term} if isinstance(term, str) else term)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ValueError(f"{where}: {first['msg'].lower()}, expected {{name, weight}}") from error
