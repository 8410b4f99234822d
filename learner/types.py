"""The nouns that the learner produces."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from rollout.types import PolicyRef


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """What one optimizer step (of DPO or of supervised fine-tuning) measured. step counts from 1 within its stage."""

    step: int
    num_steps: int
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class LearnerUpdate:
    """The outcome of one round of learning.

    metrics are means over the round's steps, weighted by pairs, and hold no clock: a rerun of the same round
    gives the same numbers. warnings are lines that a person should read.
    A round without pairs has num_steps 0 and policy_out equal to policy_in.
    """

    policy_out: PolicyRef
    num_steps: int
    num_pairs: int
    metrics: Mapping[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
