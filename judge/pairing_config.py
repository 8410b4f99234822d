"""The `pairing:` part of the `judge:` section: which answers of a group are learnt from."""

from typing import Literal, Self

from pydantic import model_validator

from rollout.types import Settings, setting

_OF_PAIRS = ("min_margin", "length_penalty", "max_pairs_per_prompt", "max_similarity", "max_length_ratio", "keep_ties")


class PairingConfig(Settings):
    """Which answers of a group become training pairs, or rows of their own.

    `select` proposes pairs, by score or mean win probability, less the length penalty; the filters drop some of them,
    each counted by its reason; they propose no others in their place. unpaired makes a row of every answer that its
    value calls desirable or undesirable.
    """

    select: Literal["max_min", "max_random", "mu_minus_2sigma", "all", "random", "unpaired"] = setting(
        "max_min",
        change="per_round",
        doc="the best against: the worst (max_min), a random worse one, the one nearest mean - 2 std; or all pairs, "
        "or two drawn; or answers by themselves, desirable or undesirable (unpaired, for loss kto)",
    )
    desirable_from: float | None = setting(
        None,
        change="per_round",
        allow_inf_nan=False,
        doc="select unpaired: answers of this value or more are desirable, in the judge's units (mean win probability "
        "for pairwise judges)",
    )
    undesirable_to: float | None = setting(
        None,
        change="per_round",
        allow_inf_nan=False,
        doc="select unpaired: answers of this value or less are undesirable; those between are counted",
    )
    min_margin: float = setting(
        0.0,
        change="per_round",
        ge=0.0,
        allow_inf_nan=False,
        doc="smallest margin that makes a pair, in the judge's units (mean win probability for pairwise judges)",
    )
    length_penalty: float = setting(
        0.0,
        change="per_round",
        ge=0.0,
        allow_inf_nan=False,
        doc="taken off each value for every 1000 characters; pairs whose order it reverses are dropped",
    )
    max_pairs_per_prompt: int | None = setting(
        None, change="per_round", ge=1, doc="pairs of one prompt, the widest margins first, for select: all"
    )
    max_similarity: float | None = setting(
        None,
        change="per_round",
        ge=0.0,
        le=1.0,
        doc="drop pairs whose texts share more of their character trigrams (Jaccard) than this",
    )
    max_length_ratio: float | None = setting(
        None,
        change="per_round",
        ge=1.0,
        allow_inf_nan=False,
        doc="drop pairs whose longer text has more than this many times the characters of the shorter",
    )
    truncated: Literal["keep", "drop_rejected", "drop_any"] = setting(
        "keep", change="per_round", doc="drop pairs whose rejected answer, or either, ran into max_new_tokens"
    )
    keep_ties: bool = setting(
        False,
        change="per_round",
        doc="store ties as rows with outcome tie or both_bad; never trained as pairs",
    )

    @model_validator(mode="after")
    def _answers_by_themselves_have_thresholds(self) -> Self:
        thresholds = (self.desirable_from, self.undesirable_to)
        if self.select != "unpaired":
            if thresholds != (None, None):
                raise ValueError(
                    f"desirable_from and undesirable_to are for select: unpaired, got select: {self.select}; leave "
                    "them out"
                )
            return self
        if self.desirable_from is None or self.undesirable_to is None or self.undesirable_to >= self.desirable_from:
            raise ValueError(
                f"select: unpaired needs undesirable_to below desirable_from, got {self.undesirable_to} and "
                f"{self.desirable_from}; for a judge of 1 and 0 they are 0 and 1"
            )
        for name in _OF_PAIRS:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} is about pairs and has no effect with select: unpaired; leave it out")
        return self
