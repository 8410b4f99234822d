"""Moments of a run, as its files show them: each comes once and stays, however often the run is killed."""

import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# In the order in which they come within a round.
_GENERATED = ("opened", "groups", "verdicts", "pairs", "judged")
EVENTS = (*_GENERATED, "probed", "step", "published", "learnt", "held out", "scored")
_COUNTED = ("groups", "verdicts", "pairs", "step")
_COMMITS = {"judged": "shards", "probed": "probe", "learnt": "update", "scored": "scores"}


@dataclass(frozen=True, kw_only=True, order=True)
class Moment:
    """The count-th event of this kind in a round, and delay_s after it."""

    round_id: int
    place: int
    count: int = 1
    delay_s: float = 0.0

    @property
    def event(self) -> str:
        return EVENTS[self.place]

    def __str__(self) -> str:
        count = f" {self.count}" if self.event in _COUNTED else ""
        return f"round {self.round_id} {self.event}{count} +{self.delay_s:.2f} s"

    def has_come(self, root: Path) -> bool:
        """Whether the event has happened, in this attempt or in one before."""
        folder = root / f"rounds/{self.round_id:04d}"
        if self.event in _COMMITS:
            return record_of(folder).get(_COMMITS[self.event]) is not None
        if self.event == "step":
            steps = [line["step"] for line in metrics(root) if (line["kind"], line["round"]) == ("step", self.round_id)]
            return max(steps, default=0) >= self.count
        if self.event == "opened":
            return (folder / "drawn.json").exists()
        if self.event == "published":
            return (root / f"policies/v{self.round_id + 1:04d}").exists()
        if self.event == "held out":
            return any((folder / "evaluation").rglob("*.json"))
        return sum(1 for _ in (folder / self.event).glob("*.json")) >= self.count


def draw(rng: random.Random, *, num_rounds: int, num_chunks: int, num_steps: int, events: tuple[str, ...]) -> Moment:
    """Any moment at which the run has something left to do."""
    round_id, event = rng.randrange(num_rounds), rng.choice(events)
    if event == "scored" and round_id == num_rounds - 1:
        event = "opened"
    highest = {"step": num_steps}.get(event, num_chunks) if event in _COUNTED else 1
    return Moment(
        round_id=round_id, place=EVENTS.index(event), count=rng.randint(1, highest), delay_s=rng.uniform(0.0, 0.4)
    )


def record_of(folder: Path) -> dict[str, Any]:
    """A round's journal entry as it is now, empty where there is none yet."""
    try:
        found: dict[str, Any] = json.loads((folder / "record.json").read_text())
        return found
    except FileNotFoundError:
        return {}


def metrics(root: Path) -> list[dict[str, Any]]:
    """The whole lines of metrics.jsonl."""
    try:
        text = (root / "metrics.jsonl").read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # cut off when its writer was killed
            continue
    return lines
