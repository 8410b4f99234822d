"""Which files of a run that was killed are read again when it goes on, and which would be made anew."""

import json
from pathlib import Path
from typing import Any

from tests.chaos.moments import record_of


def to_be_read_again(root: Path) -> list[Path]:
    """Committed files without which the run cannot go on: shards of rounds not yet learnt, and what comes after."""
    found: list[Path] = []
    for folder in _rounds(root):
        record = record_of(folder)
        if record.get("update") is None:
            pairs = {path.stem for path in (folder / "pairs").glob("*.json")}
            found += [path.with_suffix(".arrow") for path in (folder / "pairs").glob("*.json")]
            groups = (path for path in (folder / "groups").glob("*.json") if path.stem not in pairs)
            found += [path.with_suffix(".arrow") for path in groups]
    return sorted(found + _learnt_last(root))


def without_a_sequel(root: Path) -> list[Path]:
    """Manifests on which nothing that was committed rests: without them, the work was not finished."""
    found: list[Path] = []
    for folder in _rounds(root):
        if record_of(folder).get("shards") is not None:
            continue
        for made, sequel in (("groups", "verdicts"), ("verdicts", "pairs"), ("pairs", None)):
            done = {path.stem for path in (folder / sequel).glob("*.json")} if sequel else set()
            found += [path for path in (folder / made).glob("*.json") if path.stem not in done]
    return sorted(found)


def _learnt_last(root: Path) -> list[Path]:
    """The policy and the learner's state that the next round goes on from."""
    records = [record_of(folder) for folder in _rounds(root)]
    num_rounds: Any = json.loads((root / "config.json").read_text())["config"]["num_rounds"]
    learnt = [record for record in records if (record.get("update") or {}).get("num_steps")]
    if not learnt or learnt[-1]["round_id"] == num_rounds - 1:
        return []
    policy = learnt[-1]["update"]["policy_out"]
    state = root / f"learner/{policy['version'] - 1:04d}"
    return [*sorted((root / policy["path"]).glob("*.safetensors")), *sorted(state.glob("masters*.safetensors"))]


def _rounds(root: Path) -> list[Path]:
    return sorted(root.glob("rounds/[0-9]*"))
