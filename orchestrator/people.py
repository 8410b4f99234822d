"""What a run does for the people who judge: it prepares their queue, and knows where their page is."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from judge.config import people_of
from orchestrator.rundir import RunDir
from rollout.shards import write_json

if TYPE_CHECKING:
    from orchestrator.preflight import Inputs

_ADDRESS = "labels/address.json"


def prepare_queue(run: RunDir, inputs: "Inputs") -> None:
    """Make the queue's tables and leave the gold pairs, once and before actors race for it."""
    people = people_of(run.config.judge)
    if people is None:
        return
    from judge.human.database import Database
    from judge.human.gold import write_gold
    from judge.human.judge import queue_url

    (run.root / "labels").mkdir(exist_ok=True)
    Database(queue_url(people, run.root)).upgrade()
    if inputs.gold:
        write_gold(run.root, [(pair.group, pair.label) for pair in inputs.gold])


def note_address(root: Path, address: str) -> None:
    """Remember where the page is, for `rondo status`, and for the next attempt, which takes the same port again."""
    write_json(root / _ADDRESS, {"address": address})


def last_address(root: Path) -> str:
    """Where this run's page is, or was last; empty where it has none of its own."""
    try:
        found: Any = json.loads((root / _ADDRESS).read_text())["address"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    return str(found)
