"""Demonstrations to token sequences: the prompt through the chat template, the answer to its end of turn."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from rollout.errors import DataError, UsageError
from rollout.shards import read_rows
from rollout.types import Message, TokenIds, TokenSequence


@dataclass(frozen=True, kw_only=True)
class Demonstration:
    """A conversation that ends with a user turn, and the answer that is to be imitated."""

    messages: tuple[Message, ...]
    answer: str


@dataclass(frozen=True, kw_only=True)
class ChatFormat:
    """How messages become tokens, as the configuration's `policy:` says; equal to what rollout does with prompts."""

    tokenizer: PreTrainedTokenizerBase
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    system_prompt: str | None = None
    frozen_date: str | None = None

    def encode(self, demonstration: Demonstration) -> TokenSequence:
        """Prompt and answer as token ids; the answer ends with the tokenizer's end of sequence.

        The answer is tokenised on its own, because that is where generation begins. Raises DataError.
        """
        turns: list[dict[str, str]] = [dict(message) for message in demonstration.messages]  # type: ignore[arg-type]
        if self.system_prompt is not None and all(turn["role"] != "system" for turn in turns):
            turns.insert(0, {"role": "system", "content": self.system_prompt})
        clock = {"strftime_now": datetime.fromisoformat(self.frozen_date).strftime} if self.frozen_date else {}
        try:
            text = self.tokenizer.apply_chat_template(
                turns, add_generation_prompt=True, tokenize=False, **{**self.chat_template_kwargs, **clock}
            )
            prompt_ids, answer_ids = self._ids(text), self._ids(demonstration.answer)
        except UnicodeEncodeError as error:
            raise DataError("demonstration_invalid_unicode") from error
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError("demonstration_unusable", str(error)) from error
        return TokenSequence(prompt_ids=prompt_ids, completion_ids=np.append(answer_ids, self._end()))

    def _ids(self, text: str) -> TokenIds:
        text.encode("utf-8")
        return np.asarray(self.tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)

    def _end(self) -> TokenIds:
        return np.asarray([self.tokenizer.eos_token_id], dtype=np.int32)


def load_demonstrations(path: str, *, split: str = "train") -> list[Demonstration]:
    """All rows of a file, folder, Hugging Face dataset or "module:function".

    Rows are {prompt, completion}, each a text or a list of messages, or {messages}, whose last turn is the answer.
    Raises UsageError where the source cannot be read, is empty, or has a row that is no demonstration.
    """
    found = [_demonstration(row, place) for place, row in read_rows(path, split=split)]
    if not found:
        raise UsageError(f"{path} is empty, expected demonstrations: rows with prompt and completion")
    return found


def encode_all(
    demonstrations: Iterable[Demonstration], chat: ChatFormat, *, max_length: int | None
) -> tuple[list[TokenSequence], dict[str, int]]:
    """Token sequences of all rows that can be used, and the number of others by reason. Nothing is cut short."""
    usable: list[TokenSequence] = []
    rejected: Counter[str] = Counter()
    for demonstration in demonstrations:
        try:
            sequence = chat.encode(demonstration)
        except DataError as error:
            rejected[error.reason] += 1
            continue
        if max_length is not None and len(sequence.prompt_ids) + len(sequence.completion_ids) > max_length:
            rejected["demonstration_too_long"] += 1
        else:
            usable.append(sequence)
    return usable, dict(rejected)


def texts(demonstrations: Sequence[Demonstration]) -> Iterator[str]:
    """Everything that is said in them, for training a tokenizer; text that is not valid Unicode is left out."""
    for demonstration in demonstrations:
        for text in (*(message["content"] for message in demonstration.messages), demonstration.answer):
            if not any("\ud800" <= character <= "\udfff" for character in text):
                yield text


def _demonstration(row: Any, place: str) -> Demonstration:
    if isinstance(row, Mapping) and row.get("messages") is not None:
        turns = _turns(row["messages"], "user", place)
    elif isinstance(row, Mapping) and row.get("prompt") is not None and row.get("completion") is not None:
        turns = _turns(row["prompt"], "user", place) + _turns(row["completion"], "assistant", place)
    else:
        columns = sorted(map(str, row)) if isinstance(row, Mapping) else type(row).__name__
        raise UsageError(f"{place} has {columns}, expected prompt and completion, or messages")
    roles = [turn["role"] for turn in turns]
    if roles[-2:] != ["user", "assistant"]:
        raise UsageError(f"{place} is no demonstration: got roles {roles}, expected user and assistant at the end")
    return Demonstration(messages=tuple(turns[:-1]), answer=turns[-1]["content"])


def _turns(value: Any, role: str, place: str) -> list[Message]:
    turns = [{"role": role, "content": value}] if isinstance(value, str) else value
    try:
        return [Message(role=str(turn["role"]), content=str(turn["content"])) for turn in turns]
    except (KeyError, TypeError) as error:
        raise UsageError(f"{place} holds {value!r:.80}, expected a text or messages with role and content") from error
