"""Dialogues to token ids for a reward model: exactly as `judge: {kind: reward_model}` makes them later."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from learner.reward_rows import Comparison
from rollout.errors import DataError
from rollout.types import Message, TokenIds

# The date that templates print, which is the judge's: a score must not depend on the day.
_CLOCK = datetime(2024, 7, 26).strftime


@dataclass(frozen=True, kw_only=True, eq=False)
class EncodedPair:
    """Both dialogues of a comparison: int32[C] and int32[R], template included."""

    prompt_key: str
    chosen: TokenIds
    rejected: TokenIds

    @property
    def length(self) -> int:
        return max(len(self.chosen), len(self.rejected))


class DialogueEncoder:
    """Renders by the tokenizer's chat template, without further special tokens; "role: content" where it has none."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, *, max_length: int | None) -> None:
        self._tokenizer = tokenizer
        self._max_length = max_length
        added = [str(token.content) for token in tokenizer.added_tokens_decoder.values() if token.special]
        special = sorted({*added, *tokenizer.all_special_tokens})
        self._special = re.compile("|".join(map(re.escape, special))) if special else None

    def encode(self, messages: Sequence[Message]) -> TokenIds:
        """int32[T]. Raises DataError: invalid_text, special_token, template_refused or too_long."""
        for message in messages:
            try:
                message["content"].encode("utf-8")
            except UnicodeEncodeError as error:
                raise DataError("invalid_text") from error
            if self._special is not None and self._special.search(message["content"]):
                raise DataError("special_token")
        templated = bool(self._tokenizer.chat_template)
        try:
            text = (
                self._tokenizer.apply_chat_template(
                    [dict(each) for each in messages], tokenize=False, strftime_now=_CLOCK
                )
                if templated
                else "\n\n".join(f"{each['role']}: {each['content']}" for each in messages)
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError("template_refused", str(error)) from error
        ids = self._tokenizer(text, add_special_tokens=not templated, verbose=False)["input_ids"]
        if not ids:
            raise DataError("invalid_text")
        if self._max_length is not None and len(ids) > self._max_length:
            raise DataError("too_long")
        return np.asarray(ids, dtype=np.int32)


def encode_comparisons(
    comparisons: Iterable[Comparison], encoder: DialogueEncoder
) -> tuple[list[EncodedPair], dict[str, int]]:
    """The pairs of which both sides can be encoded whole, and the number of the others by reason."""
    found: list[EncodedPair] = []
    dropped: Counter[str] = Counter()
    for comparison in comparisons:
        try:
            chosen, rejected = encoder.encode(comparison.chosen), encoder.encode(comparison.rejected)
        except DataError as error:
            dropped[error.reason] += 1
            continue
        found.append(EncodedPair(prompt_key=comparison.prompt_key, chosen=chosen, rejected=rejected))
    return found, dict(dropped)
