"""Preference pairs from wherever people keep them: Rondo's pair shards, files of message lists, text dialogues."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from judge.types import PairShard
from rollout.errors import IntegrityError, UsageError
from rollout.shards import hash_file, hash_json, read_json, read_rows
from rollout.types import Message

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_EXPECTED = (
    "expected chosen and rejected, each a list of messages or a text, with the prompt beside them or at their "
    "beginning, or two dialogues that begin with '\\n\\nHuman:'"
)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two dialogues that end with an answer each. prompt_key is the hash of the turns that both begin with."""

    prompt_key: str
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]


def load_comparisons(sources: Sequence[str], *, split: str = "train") -> tuple[list[Comparison], dict[str, int]]:
    """The pairs of all sources that have a winner, and the number of other rows by reason.

    A source is a run directory, a folder of pair shards, or whatever read_rows takes. Rows are those of pair shards,
    {prompt, chosen, rejected} (texts or messages), {chosen, rejected} as whole conversations (TRL's implicit prompt),
    or the dialogues of hh-rlhf as text. Reasons: tie, both_bad, abstain, unpaired (a side is missing), identical,
    not_a_dialogue and invalid_text. Raises UsageError where a source is no preference data, and IntegrityError where
    a pair shard is not what its manifest says.
    """
    found: list[Comparison] = []
    dropped: Counter[str] = Counter()
    for source in sources:
        for place, row in _rows(source, split):
            made = _comparison(row, place)
            if isinstance(made, Comparison):
                found.append(made)
            else:
                dropped[made] += 1
    return found, dict(dropped)


def _rows(source: str, split: str) -> Iterator[tuple[str, Any]]:
    folder = Path(source)
    shards = sorted(folder.glob("rounds/*/pairs/*.json")) or sorted(folder.glob("*.json")) if folder.is_dir() else []
    shards = [path for path in shards if path.with_suffix(".arrow").is_file()]
    if (folder / "rounds").is_dir() and not shards:
        raise UsageError(f"{source} has no pair shards in rounds/*/pairs yet; wait for its first round to be judged")
    for manifest in shards:
        yield from _rows_of_shard(manifest.with_suffix(".arrow"), split)
    if not shards:
        yield from _rows_of_shard(folder, split) if folder.suffix == ".arrow" else read_rows(source, split=split)


def _rows_of_shard(path: Path, split: str) -> Iterator[tuple[str, Any]]:
    manifest = path.with_suffix(".json")
    if manifest.is_file() and hash_file(path) != read_json(manifest, PairShard).sha256:
        raise IntegrityError(f"{path} was truncated or altered: its sha256 is not the manifest's; restore it")
    return read_rows(str(path), split=split)


def _comparison(row: Any, place: str) -> Comparison | str:
    """The row as a comparison, or the reason why it is none."""
    if isinstance(row, str):
        return "invalid_text"  # what read_rows gives for bytes that cannot be decoded
    if not isinstance(row, Mapping) or not {"chosen", "rejected"} <= row.keys():
        columns = sorted(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise UsageError(f"{place} has {columns}, {_EXPECTED}")
    outcome = row.get("outcome") or "chosen"
    if outcome != "chosen":
        return str(outcome)
    if row["chosen"] is None or row["rejected"] is None:
        return "unpaired"
    sides = [_dialogue(row.get("prompt"), row[name], place) for name in ("chosen", "rejected")]
    if any(not side or side[-1]["role"] != "assistant" for side in sides):
        return "not_a_dialogue"
    chosen, rejected = sides
    if chosen == rejected:
        return "identical"
    common = [left for left, _ in takewhile(lambda turns: turns[0] == turns[1], zip(chosen, rejected, strict=False))]
    return Comparison(prompt_key=hash_json(common)[:24], chosen=tuple(chosen), rejected=tuple(rejected))


def _dialogue(prompt: Any, side: Any, place: str) -> list[Message]:
    """One side with its prompt; empty where a text is no dialogue."""
    if prompt is None and isinstance(side, str):
        return _text_dialogue(side, place)
    turns = _turns(side, "assistant", place)
    if prompt is None or (isinstance(prompt, str) and turns and turns[0]["role"] != "assistant"):
        return turns  # a whole conversation; some data sets repeat its question in a column
    return _turns(prompt, "user", place) + turns


def _text_dialogue(text: str, place: str) -> list[Message]:
    r"""The turns of "\n\nHuman: ...\n\nAssistant: ..." (Bai et al. 2022, 2204.05862); empty where it has no others."""
    begin, *rest = _TURN.split(text if text.startswith("\n\n") else f"\n\n{text}")
    if begin.strip():
        raise UsageError(f"{place} holds {text[:60]!r}, {_EXPECTED}")
    turns = [
        Message(role=_ROLES[name], content=content.strip()) for name, content in zip(rest[::2], rest[1::2], strict=True)
    ]
    return turns if turns and all(turn["content"] for turn in turns[:-1]) else []


def _turns(value: Any, role: str, place: str) -> list[Message]:
    turns = [{"role": role, "content": value}] if isinstance(value, str) else value
    try:
        return [Message(role=str(turn["role"]), content=str(turn["content"])) for turn in turns]
    except (KeyError, TypeError) as error:
        raise UsageError(f"{place} holds {value!r:.80}, {_EXPECTED}") from error
