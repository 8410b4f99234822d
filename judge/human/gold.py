"""Gold pairs of a run, as its driver leaves them for the judge: read from the user's file, checked, in one form."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from judge.human.types import NewTask
from rollout.shards import hash_json, read_json, write_json
from rollout.types import CompletionGroup, Message


@dataclass(frozen=True, kw_only=True)
class GoldPair:
    """Two answers to a prompt, and which of them is known to be better."""

    prompt_id: str
    messages: tuple[dict[str, str], ...]
    text_a: str
    text_b: str
    label: Literal["a", "b", "tie"]


@dataclass(frozen=True, kw_only=True)
class GoldPairs:
    """What gold.json holds."""

    pairs: tuple[GoldPair, ...]


def write_gold(run_dir: Path, labelled: list[tuple[CompletionGroup, Literal["a", "b", "tie"]]]) -> None:
    """Leave the gold pairs for the judges of this run."""
    pairs = tuple(
        GoldPair(
            prompt_id=group.prompt.prompt_id,
            messages=tuple({"role": one["role"], "content": one["content"]} for one in group.prompt.messages),
            text_a=group.completions[0].text,
            text_b=group.completions[1].text,
            label=label,
        )
        for group, label in labelled
    )
    write_json(_path(run_dir), GoldPairs(pairs=pairs), GoldPairs)


def read_gold(run_dir: Path) -> list[NewTask]:
    """The gold pairs as tasks. Raises IntegrityError if they are not there."""
    return [
        NewTask(
            key=hash_json(["gold", pair.prompt_id, pair.text_a, pair.text_b]),
            prompt_id=pair.prompt_id,
            a=0,
            b=1,
            messages=tuple(Message(role=one["role"], content=one["content"]) for one in pair.messages),
            text_a=pair.text_a,
            text_b=pair.text_b,
            gold=pair.label,
            origin="gold",
        )
        for pair in read_json(_path(run_dir), GoldPairs).pairs
    ]


def _path(run_dir: Path) -> Path:
    return run_dir / "labels" / "gold.json"
