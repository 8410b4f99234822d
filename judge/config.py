"""The `judge:` section of the configuration."""

from typing import Any, Literal, Self

from pydantic import field_validator, model_validator

from rollout.types import Settings, setting


class PairingConfig(Settings):
    """Which two answers of a group become a training pair."""

    select: Literal["max_min"] = setting(
        "max_min",
        change="per_round",
        doc="max_min pairs the best answer with the worst, by score or mean win probability",
    )
    min_margin: float = setting(
        0.0,
        change="per_round",
        ge=0.0,
        allow_inf_nan=False,
        doc="smallest margin that makes a pair, in the judge's units (mean win probability for pairwise judges)",
    )


class JudgeConfig(Settings):
    """Who judges, what is compared, and how answers become pairs."""

    kind: Literal["function"] = setting("function", change="per_round", doc="function calls Python code of yours")
    target: str = setting(change="per_round", doc="module:name of a callable or of a class with `score` or `judge`")
    style: Literal["pointwise", "pairwise"] = setting(
        "pointwise", change="per_round", doc="pointwise scores each answer, pairwise compares two answers"
    )
    settings: dict[str, Any] = setting({}, change="per_round", doc="keyword arguments handed to the target")
    comparisons: Literal["all", "anchor", "random_k"] = setting(
        "all",
        change="per_round",
        doc="what a pairwise judge compares: all pairs, the first answer against each, or k drawn",
    )
    num_comparisons: int | None = setting(
        None, change="per_round", ge=1, doc="comparisons of one prompt, for comparisons: random_k"
    )
    timeout_s: float = setting(
        600.0,
        change="operational",
        gt=0.0,
        allow_inf_nan=False,
        doc="seconds the target may take on one prompt's answers",
    )
    pairing: PairingConfig = setting(PairingConfig(), change="per_round", doc="how answers become pairs")

    @field_validator("target")
    @classmethod
    def _names_a_module_and_an_attribute(cls, target: str) -> str:
        module, _, name = target.partition(":")
        if not (name and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])):
            raise ValueError(f"got {target!r}, expected module:name, for instance my_rewards:score")
        return target

    @model_validator(mode="after")
    def _random_k_has_its_k(self) -> Self:
        if (self.comparisons == "random_k") != (self.num_comparisons is not None):
            raise ValueError(
                f"num_comparisons is {self.num_comparisons} and comparisons is {self.comparisons}: "
                "set num_comparisons together with comparisons: random_k, and only there"
            )
        return self
