"""The judge section of a configuration by itself, for commands that need no policy and no prompts."""

from pathlib import Path
from typing import Any

from judge.check import check_judge
from judge.config import JudgeConfig, parse_judge
from orchestrator.config import parse_section, read_tree
from rollout.errors import UsageError


def load_judge(path: Path, overrides: list[str] | None) -> tuple[JudgeConfig, dict[str, Any]]:
    """The judge section of a configuration, which may hold nothing else, and the whole tree as it was read."""
    tree = read_tree(path, overrides)
    if not isinstance(tree.get("judge"), dict):
        raise UsageError(f"{path} has no judge section; expected `judge:` with at least a kind")
    settings = parse_section(parse_judge, tree["judge"], name="judge", origin=str(path))
    check_judge(settings)
    return settings, tree
