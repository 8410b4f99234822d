"""What practitioners get wrong with direct preference learning, told from the figures of a round's own steps."""

import math
from collections.abc import Mapping, Sequence

from learner.objective_config import ObjectiveConfig

_LOW_BETA = 0.05
# A round this short says nothing of a trend.
_MIN_STEPS = 8
# Nats by which a mean loss differs from ln 2 where something was learnt at all.
_STUCK = 1e-3
# Nats an answer that chosen answers may lose against the reference before it is worth a word.
_DISPLACED = 1.0
# Nats a token between the reference and the policy that wrote the answers, and below any fluent writer.
_FAR, _STRANGE = 1.0, -4.0
_LOGISTIC = frozenset({"sigmoid", "robust", "sigmoid_norm", "ld_dpo", "dpop", "chi_po"})

Steps = Sequence[Mapping[str, float]]


def warnings_of(settings: ObjectiveConfig, steps: Steps, *, num_rounds: int) -> tuple[str, ...]:
    """One line for each thing that a practitioner should look at after a round; steps: what each of them measured."""
    found = [
        _low_beta(settings),
        _one_round(num_rounds),
        _stuck(settings, steps),
        _displaced(settings, steps),
        _far_reference(steps),
    ]
    return tuple(line for line in found if line is not None)


def _low_beta(settings: ObjectiveConfig) -> str | None:
    if settings.beta >= _LOW_BETA or all(term.name != "sigmoid" for term in settings.losses):
        return None
    return (
        f"learner.beta {settings.beta} lets sigmoid drift far from its reference, expected {_LOW_BETA} or more; "
        "raise it, or set learner.kl_target"
    )


def _one_round(num_rounds: int) -> str | None:
    if num_rounds > 1:
        return None
    return "num_rounds is 1: the policy never answers again after it has learnt, which is offline DPO; raise num_rounds"


def _stuck(settings: ObjectiveConfig, steps: Steps) -> str | None:
    """Where policy and reference start equal, a logistic loss starts at ln 2 and has to leave it."""
    names = {term.name for term in settings.losses}
    plain = len(settings.losses) == 1 and settings.losses[0].weight == 1 and not settings.nll_weight
    if not (plain and names <= _LOGISTIC) or settings.wpo or settings.staleness_weights != "none":
        return None
    if len(steps) < _MIN_STEPS or any(abs(step["loss"] - math.log(2)) > _STUCK for step in steps):
        return None
    return (
        f"the loss stayed at ln 2 for all of {len(steps)} steps, so nothing was learnt; raise learner.learning_rate, "
        "or look whether the pairs' two answers differ at all (rondo show --pairs)"
    )


def _displaced(settings: ObjectiveConfig, steps: Steps) -> str | None:
    """Both answers lose against the reference and within the round: likelihood displacement."""
    if len(steps) < _MIN_STEPS or any("kl" not in step for step in steps):
        return None

    def lost(side: str) -> tuple[float, float]:
        at_first, at_last = (
            _mean([step[f"reward_{side}"] / _beta_of(step, settings) for step in some if f"reward_{side}" in step])
            for some in (steps[:2], steps[len(steps) // 2 :])
        )
        return at_last, at_last - at_first

    (chosen, change), (rejected, other_change) = lost("chosen"), lost("rejected")
    if not (chosen < -_DISPLACED and rejected < -_DISPLACED and change < 0 and other_change < 0):
        return None
    return (
        f"chosen answers fall together with rejected ones ({chosen:.1f} and {rejected:.1f} nats against the "
        "reference), so that what is learnt goes to answers nobody saw; try learner.nll_weight, loss dpop, or a "
        "lower learning rate"
    )


def _far_reference(steps: Steps) -> str | None:
    """The first step's figures are those of the policy as it came into the round."""
    if not steps or "ref_token_logp_chosen" not in steps[0] or "token_logp_chosen" not in steps[0]:
        return None
    policy, reference = (
        steps[0]["token_logp_chosen"],
        _mean([step["ref_token_logp_chosen"] for step in steps if "ref_token_logp_chosen" in step]),
    )
    if policy - reference <= _FAR and reference >= _STRANGE:
        return None
    return (
        f"chosen answers have {reference:.2f} nats a token under the reference and {policy:.2f} under the policy, "
        "so their style is not the reference's; fine-tune the base on such answers first, or set learner.reference: "
        "round_start"
    )


def _beta_of(step: Mapping[str, float], settings: ObjectiveConfig) -> float:
    """The beta that a step's rewards are in; beta-DPO's own is not."""
    return settings.beta if settings.beta_dpo_alpha else step.get("beta", settings.beta)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan
