"""Prompts out of rows: which column, which rows cannot be used and why, and what is kept for the judge."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, time
from decimal import Decimal
from typing import Any

import numpy as np

from rollout.errors import DataError, UsageError
from rollout.files import hash_json
from rollout.prompts import prompt_id
from rollout.rows import read_rows
from rollout.types import Message, Prompt

COLUMNS = ("prompt", "messages", "question", "instruction")


@dataclass(frozen=True, kw_only=True)
class LoadedPrompts:
    """What a source holds: usable prompts in its order, and how many rows were not used, by reason."""

    prompts: tuple[Prompt, ...]
    rejected: dict[str, int]


def load_prompts(path: str, *, split: str = "train", column: str | None = None) -> LoadedPrompts:
    """Load all prompts of a file, folder, Hugging Face dataset or "module:function".

    The prompt is text or a list of {"role", "content"} that ends with a user turn, in `column` or the first of COLUMNS
    that has a value; the other columns become metadata. Unusable rows are counted: prompt_empty, prompt_malformed,
    prompt_not_user_turn, prompt_invalid_unicode, prompt_duplicate. Raises UsageError if the source cannot be
    read, if none of it can be used, or if a prompt stands there twice with different metadata.
    """
    found: dict[str, Prompt] = {}
    rejected: Counter[str] = Counter()
    for source, row in read_rows(path, split=split):
        try:
            prompt = prompt_of(row, source, column)
        except DataError as error:
            rejected[error.reason] += 1
            continue
        earlier = found.setdefault(prompt.prompt_id, prompt)
        if earlier is not prompt:
            _refuse_other_metadata(earlier, prompt)
            rejected["prompt_duplicate"] += 1
    if not found:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(rejected.items())) or "it is empty"
        raise UsageError(f"{path} has no prompt that can be used: {counts}; expected at least one usable row")
    return LoadedPrompts(prompts=tuple(found.values()), rejected=dict(rejected))


def prompt_of(row: Any, source: str, column: str | None = None) -> Prompt:
    """The prompt of one row; its other columns become metadata. Raises DataError with the reason, UsageError."""
    row = {"prompt": row} if isinstance(row, str) else row
    if not isinstance(row, Mapping):
        raise UsageError(f"{source} is a {type(row).__name__}, expected a row: a mapping of columns, or a text")
    name = _column_of(row, source, column)
    metadata = {key: _plain(value, f"{source} column {key!r}") for key, value in row.items() if key != name}
    messages = _messages_of(row[name])
    if not (_is_unicode(list(messages)) and _is_unicode(metadata)):
        raise DataError("prompt_invalid_unicode")
    return Prompt(prompt_id=prompt_id(messages), messages=messages, source=source, metadata=metadata)


def _column_of(row: Mapping[str, Any], source: str, column: str | None) -> str:
    wanted = COLUMNS if column is None else (column,)
    present = [name for name in wanted if name in row]
    if not present:
        raise UsageError(
            f"{source} has columns {sorted(map(str, row))}, expected {' or '.join(map(repr, wanted))}; "
            "name the column that holds the prompt in prompts.column"
        )
    return next((name for name in present if row[name] is not None), present[0])


def _messages_of(value: Any) -> tuple[Message, ...]:
    if value is None or value == []:
        raise DataError("prompt_empty")
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list | tuple):
        raise DataError("prompt_malformed")
    messages = tuple(_message_of(turn) for turn in value)
    if messages[-1]["role"] != "user":
        raise DataError("prompt_not_user_turn")
    if not messages[-1]["content"].strip():
        raise DataError("prompt_empty")
    return messages


def _message_of(turn: Any) -> Message:
    # Keys with no value are what columnar formats add to rows that have fewer keys than others.
    keys = {key for key, value in turn.items() if value is not None} if isinstance(turn, Mapping) else set()
    if keys != {"role", "content"} or not (isinstance(turn["role"], str) and isinstance(turn["content"], str)):
        raise DataError("prompt_malformed")
    return Message(role=turn["role"], content=turn["content"])


def _plain(value: Any, place: str) -> Any:
    # Metadata travels as JSON: what is written must come back equal.
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist(), place)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, place) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, place) for item in value]
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise UsageError(f"{place} holds {type(value).__name__}, which is not JSON; convert or drop the column")


def _is_unicode(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _refuse_other_metadata(earlier: Prompt, later: Prompt) -> None:
    if hash_json(earlier.metadata) != hash_json(later.metadata):
        raise UsageError(
            f"prompt {earlier.prompt_id} stands in {earlier.source} and {later.source} with different metadata, "
            "so that it is unclear what the judge should be given; keep one of the two"
        )
