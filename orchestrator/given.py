"""Completions that exist already, from a file: what `rondo judge` judges, labels for an audit, and canaries."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rollout.errors import DataError, UsageError
from rollout.rows import read_rows
from rollout.shards import find_shards, hash_json, write_groups
from rollout.sources import COLUMNS, prompt_of
from rollout.types import (
    Completion,
    CompletionGroup,
    GroupShard,
    PolicyRef,
    Prompt,
    PromptChunk,
    Sampling,
    TokenSignature,
)

Label = Literal["a", "b", "tie"]
_SIDES = (("a", "b"), ("chosen", "rejected"), ("response_a", "response_b"), ("completion_a", "completion_b"))
_SWAPPED: Mapping[Label, Label] = {"a": "b", "b": "a", "tie": "tie"}
_LABELS: Mapping[Any, Label] = {"a": "a", "A": "a", "b": "b", "B": "b", "tie": "tie", "both_bad": "tie"}


@dataclass(frozen=True, kw_only=True)
class LabelledPair:
    """Two answers to one prompt and the label that somebody gave them."""

    group: CompletionGroup
    label: Label


def read_given(path: str) -> tuple[list[CompletionGroup], Counter[str]]:
    """Groups of a file whose rows hold a prompt and `completions` (texts), or two answers; unusable rows by reason.

    Rows of one prompt are one group. Raises UsageError where nothing can be used.
    """
    found: dict[str, tuple[Prompt, list[str]]] = {}
    unusable: Counter[str] = Counter()
    for source, row in read_rows(path, split="train"):
        try:
            texts = _texts(row, source)
            prompt = _prompt(row, source, dropped={"completions", *(name for pair in _SIDES for name in pair)})
        except DataError as error:
            unusable[error.reason] += 1
            continue
        found.setdefault(prompt.prompt_id, (prompt, []))[1].extend(texts)
    if not found:
        raise UsageError(f"{path} has no row that can be judged ({_counts(unusable)}); expected prompt and completions")
    return [make_group(prompt, texts) for prompt, texts in found.values()], unusable


def read_labels(path: str) -> tuple[list[LabelledPair], Counter[str]]:
    """Labelled pairs of a file: a prompt, two answers (a and b, or chosen and rejected), and `label` (a, b, tie).

    Chosen and rejected need no label; which of them comes first is drawn by a hash of the row. Every pair has a
    prompt_id of its own, so that a prompt may come more than once. Raises UsageError where nothing can be used.
    """
    pairs: list[LabelledPair] = []
    unusable: Counter[str] = Counter()
    for number, (source, row) in enumerate(read_rows(path, split="train")):
        try:
            names = _sides(row, source)
            texts = [_text(row[name]) for name in names]
            prompt = _prompt(row, source, dropped={*names, "label"})
            label = _label(row, names)
        except DataError as error:
            unusable[error.reason] += 1
            continue
        prompt = replace(prompt, prompt_id=f"{prompt.prompt_id}-{number}")
        if names == ("chosen", "rejected") and int(hash_json([prompt.prompt_id, *texts])[:2], 16) % 2:
            texts.reverse()
            label = _SWAPPED[label]
        pairs.append(LabelledPair(group=make_group(prompt, texts), label=label))
    if not pairs:
        raise UsageError(
            f"{path} has no labelled pair that can be used ({_counts(unusable)}); expected a prompt, two answers "
            "(a and b, or chosen and rejected) and a label (a, b or tie)"
        )
    return pairs, unusable


def make_group(prompt: Prompt, texts: Sequence[str]) -> CompletionGroup:
    """A group of texts that nobody here sampled: it has no tokens, so that its pairs can be read but not trained."""
    completions = tuple(
        Completion(
            index=index,
            token_ids=np.zeros(0, np.int32),
            logps=np.zeros(0, np.float32),
            text=text,
            finish_reason="stop",
            seed=None,
            weight_versions=(),
        )
        for index, text in enumerate(texts)
    )
    return CompletionGroup(prompt=prompt, prompt_token_ids=np.zeros(0, np.int32), completions=completions)


def write_given(root: Path, folder: str, groups: Sequence[CompletionGroup], *, round_id: int = 0) -> list[GroupShard]:
    """Write groups as shards of 256 under folder, so that a judge reads them like any others."""
    nobody = PolicyRef(version=0, path="", sha256="")
    signature = TokenSignature(tokenizer="", chat_template="", template_kwargs="", stop_ids=())
    shards = []
    for chunk_id, start in enumerate(range(0, len(groups), 256)):
        part = groups[start : start + 256]
        most = max(len(group.completions) for group in part)
        shard = write_groups(
            run_dir=root,
            chunk=PromptChunk(chunk_id=chunk_id, round_id=round_id, shard_dir=folder, prompts=()),
            groups=part,
            policy=nobody,
            sampling=Sampling(num_completions=most, temperature=1.0, top_p=1.0, max_new_tokens=0),
            signature=signature,
            rejected={},
        )
        shards.append(shard)
    return shards


def find_given(path: Path) -> list[GroupShard] | None:
    """The group shards of a run's round, if the folder holds any; their paths are absolute."""
    if not path.is_dir():
        return None
    shards = find_shards(path, ".", GroupShard)
    return [replace(shard, path=str(path.resolve() / Path(shard.path).name)) for shard in shards] or None


def _prompt(row: Mapping[str, Any], source: str, *, dropped: set[str]) -> Prompt:
    kept = {key: value for key, value in row.items() if key not in dropped}
    if not any(name in kept for name in COLUMNS):
        raise UsageError(f"{source} has columns {sorted(row)}, expected a prompt in one of {', '.join(COLUMNS)}")
    return prompt_of(kept, source)


def _texts(row: Any, source: str) -> list[str]:
    if isinstance(row, Mapping) and isinstance(row.get("completions"), list):
        return [_text(entry) for entry in row["completions"]]
    return [_text(row[name]) for name in _sides(row, source)]


def _sides(row: Any, source: str) -> tuple[str, str]:
    if isinstance(row, Mapping):
        for names in _SIDES:
            if all(name in row for name in names):
                return names
    have = sorted(row) if isinstance(row, Mapping) else type(row).__name__
    raise UsageError(f"{source} holds {have}, expected `completions`, or two answers such as `a` and `b`")


def _text(entry: Any) -> str:
    """An answer: text, or a list of messages whose last one is the assistant's."""
    if isinstance(entry, list) and entry and isinstance(entry[-1], Mapping):
        entry = entry[-1].get("content")
    if not isinstance(entry, str):
        raise DataError("answer_malformed")
    try:
        json.dumps(entry, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError("answer_invalid_unicode") from error
    return entry


def _label(row: Mapping[str, Any], names: tuple[str, str]) -> Label:
    if names == ("chosen", "rejected") and "label" not in row:
        return "a"
    label = _LABELS.get(row.get("label"))
    if label is None:
        raise DataError("label_unknown")
    return label


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in sorted(counts.items())) or "it is empty"
