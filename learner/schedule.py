"""The learning rate as a pure function of where a step stands."""

from dataclasses import dataclass

from learner.config import LearnerConfig


@dataclass(frozen=True, kw_only=True)
class Position:
    """steps_before: optimizer steps of the whole run before this one; step: from 0, of num_steps in the round."""

    steps_before: int
    step: int
    num_steps: int
    round_id: int
    num_rounds: int


def learning_rate(settings: LearnerConfig, at: Position) -> float:
    """Linear warm-up, then constant or linear to zero; no step ever has a rate of zero.

    whole_run goes by the share of rounds that is done, as no one knows how many pairs later rounds will have.
    """
    warm = at.step if settings.schedule == "per_round" else at.steps_before
    factor = min(1.0, (warm + 1) / max(1, settings.warmup_steps))
    done = at.step / at.num_steps
    if settings.schedule == "per_round":
        factor *= 1 - done
    elif settings.schedule == "whole_run":
        factor *= 1 - (at.round_id + done) / max(at.num_rounds, at.round_id + 1)
    return settings.learning_rate * factor
