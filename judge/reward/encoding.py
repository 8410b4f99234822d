"""Dialogues to token ids, the way a classifier reads them: whole, or not at all."""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from jinja2 import TemplateError

from judge.reward.source import ModelBackend, find_folder, read_config, tokenizer_of
from rollout.errors import DataError, UsageError
from rollout.types import Message, TokenIds

# Their positions begin after that of the padding id, so that many fewer tokens fit than there are positions.
_POSITIONS_AFTER_PAD = ("roberta", "camembert", "longformer", "mpnet", "data2vec-text", "luke", "esm")
_PLACES = re.compile(r"\{(prompt|a|b)\}")
# Some templates print today's date; a score must not depend on the day.
CLOCK = datetime(2024, 7, 26).strftime


class RowEncoder:
    """A classifier's tokenizer, and how many tokens it takes.

    Dialogues go through the chat template, which brings its own BOS: so no special tokens are added. Without a
    template they are rendered as "role: content", with the tokenizer's special tokens, and `notice` says so.
    """

    def __init__(self, config: ModelBackend) -> None:
        from transformers import AutoTokenizer

        folder = find_folder(tokenizer_of(config), weights=False)
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        except (OSError, ValueError, ImportError) as error:
            reason = str(error).strip().splitlines()[0]
            raise UsageError(f"cannot load a tokenizer from {folder}: {reason}; give judge.tokenizer") from error
        self.template = self._find_template(folder)
        self.max_length = config.max_length or _context(folder)
        self.notice = (
            None
            if self.template is not None
            else f"{config.model} has no chat template: dialogues are rendered as 'role: content'"
        )
        added = getattr(self.tokenizer, "added_tokens_decoder", {}).values()
        special = {str(token.content) for token in added if token.special} | set(self.tokenizer.all_special_tokens)
        self._special = re.compile("|".join(map(re.escape, sorted(special)))) if special else None

    def dialogue(self, messages: Sequence[Message]) -> TokenIds:
        """A whole dialogue, the answer last: int32[T].

        Raises DataError: invalid_text, special_token (a text spells a control token, and so could fake a turn),
        template_refused or too_long.
        """
        self._check([message["content"] for message in messages])
        if self.template is None:
            return self._ids(plain(messages), add_special_tokens=True)
        try:
            text = self.tokenizer.apply_chat_template(
                [dict(message) for message in messages], chat_template=self.template, tokenize=False, strftime_now=CLOCK
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError("template_refused", str(error)) from error
        return self._ids(text, add_special_tokens=False)

    def joint(self, template: str, parts: Mapping[str, str]) -> TokenIds:
        """A prompt and two answers in one text: int32[T]. Raises DataError as dialogue() does.

        The tokenizer's special tokens are added unless the template itself begins with one of them.
        """
        self._check(list(parts.values()))
        frames = [frame.strip() for frame in _PLACES.split(template)[::2] if len(frame.strip()) > 3]
        if found := next((frame for frame in frames for part in parts.values() if frame in part), None):
            raise DataError("special_token", f"a text holds {found!r}, which is part of the template")
        text = _PLACES.sub(lambda place: parts[place[1]], template)
        begins = [token for token in (self.tokenizer.bos_token, self.tokenizer.cls_token) if token]
        return self._ids(text, add_special_tokens=not text.startswith(tuple(begins)))

    def _find_template(self, folder: Path) -> str | None:
        if not self.tokenizer.chat_template:
            return None
        try:
            return str(self.tokenizer.get_chat_template())
        except ValueError as error:
            raise UsageError(
                f"the tokenizer of {folder} has several chat templates, none of them named default; "
                "keep one, or give another judge.tokenizer"
            ) from error

    def _check(self, texts: Sequence[str]) -> None:
        for text in texts:
            try:
                text.encode("utf-8")
            except UnicodeEncodeError as error:
                raise DataError("invalid_text", str(error)[:200]) from error
            if self._special is not None and (found := self._special.search(text)):
                raise DataError("special_token", f"a text holds {found[0]!r}, which the tokenizer takes for a control")

    def _ids(self, text: str, *, add_special_tokens: bool) -> TokenIds:
        # verbose: a warning about length is of no use where longer rows are refused anyway.
        ids = self.tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]
        if not ids:
            raise DataError("invalid_text", "no tokens were made of it")
        if self.max_length is not None and len(ids) > self.max_length:
            raise DataError("too_long", f"{len(ids)} tokens, at most {self.max_length} fit")
        return np.asarray(ids, dtype=np.int32)


def plain(messages: Sequence[Message]) -> str:
    """A dialogue without a chat template: "role: content", a blank line between turns."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)


def _context(folder: Path) -> int | None:
    """Tokens that a model's positions allow, or None where its configuration does not say."""
    if not (folder / "config.json").is_file():
        return None
    described = read_config(folder)
    described = cast(Mapping[str, Any], described.get("text_config") or described)
    found = next((described[name] for name in ("max_position_embeddings", "n_positions") if name in described), None)
    if found is None or int(found) <= 0:
        return None
    taken = int(described.get("pad_token_id") or 0) + 1 if _counts_pad(str(described.get("model_type"))) else 0
    return int(found) - taken


def _counts_pad(model_type: str) -> bool:
    return any(name in model_type for name in _POSITIONS_AFTER_PAD)
