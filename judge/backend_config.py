"""What every judge's settings have, and the settings of judges that are the user's own code."""

import difflib
import importlib.metadata
from typing import Any, Literal

from pydantic import field_validator, model_validator

from rollout.types import Settings, setting

KINDS = ("function", "llm", "reward_model", "preference_model", "verifier", "human", "ensemble", "cascade")
ENTRY_POINTS = "rondo.judges"


class Backend(Settings):
    """Base of the settings of one judge."""

    kind: str
    timeout_s: float = setting(
        600.0,
        change="operational",
        gt=0.0,
        allow_inf_nan=False,
        doc="seconds that one call of the judge may take",
    )


class FunctionBackend(Backend):
    """Python code of the user: a function, or a class with `score` or `judge`."""

    kind: Literal["function"] = setting("function", change="per_round", doc="Python code of yours")
    target: str = setting(change="per_round", doc="module:name of a callable or of a class with `score` or `judge`")
    style: Literal["pointwise", "pairwise"] = setting(
        "pointwise", change="per_round", doc="pointwise scores each answer, pairwise compares two answers"
    )
    settings: dict[str, Any] = setting({}, change="per_round", doc="keyword arguments handed to the target")

    @field_validator("target")
    @classmethod
    def _names_a_module_and_an_attribute(cls, target: str) -> str:
        module, _, name = target.partition(":")
        if not (name and all(part.isidentifier() for part in [*module.split("."), *name.split(".")])):
            raise ValueError(f"got {target!r}, expected module:name, for instance my_rewards:score")
        return target


class PluginBackend(Backend):
    """A judge of an installed package, found by its entry point in the group `rondo.judges`."""

    kind: str = setting(change="per_round", doc="name of an entry point in the group rondo.judges")
    style: Literal["pointwise", "pairwise"] = setting(
        "pointwise", change="per_round", doc="pointwise scores each answer, pairwise compares two answers"
    )
    settings: dict[str, Any] = setting({}, change="per_round", doc="keyword arguments handed to the judge")

    @model_validator(mode="before")
    @classmethod
    def _is_installed(cls, section: Any) -> Any:
        kind = section.get("kind") if isinstance(section, dict) else section
        names = [entry.name for entry in importlib.metadata.entry_points(group=ENTRY_POINTS)]
        if isinstance(kind, str) and kind in names:
            return section
        near = difflib.get_close_matches(str(kind), [*KINDS, *names], n=1)
        raise ValueError(
            f"kind is {kind!r}"
            + (f", did you mean {near[0]}?" if near else ".")
            + f" Expected one of {', '.join(KINDS)}, or an entry point of an installed package in the group "
            f"{ENTRY_POINTS} (found: {', '.join(names) or 'none'})"
        )
