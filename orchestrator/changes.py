"""Which settings may change on resume: operational ones freely, per-round ones with --amend, identity ones never."""

from typing import Any

from orchestrator.config import RunConfig
from rollout.types import Change, Settings


def flatten(settings: Settings, prefix: str = "") -> dict[str, tuple[Change, Any]]:
    """Every leaf of a configuration: its dotted name, when it may change, and its JSON value."""
    leaves: dict[str, tuple[Change, Any]] = {}
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, Settings):
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            extra = field.json_schema_extra
            assert isinstance(extra, dict), f"{prefix}{name} has no change mark"
            plain = settings.model_dump(mode="json", include={name})[name]
            leaves[f"{prefix}{name}"] = (extra["change"], plain)  # type: ignore[assignment]
    return leaves


def changed(old: RunConfig, new: RunConfig) -> dict[Change, list[str]]:
    """The names of the settings that differ, by when they may change, each with both values."""
    before, after = flatten(old), flatten(new)
    found: dict[Change, list[str]] = {"identity": [], "per_round": [], "operational": []}
    for name in sorted(before.keys() | after.keys()):
        was, now = before.get(name), after.get(name)
        if was != now:
            mark = (now or was)[0]  # type: ignore[index]
            found[mark].append(f"{name}: {was[1] if was else None!r} -> {now[1] if now else None!r}")
    return found


def select(config: RunConfig, change: Change) -> dict[str, Any]:
    """The settings with this mark, as plain JSON values under their dotted names."""
    return {name: value for name, (mark, value) in flatten(config).items() if mark == change}
