"""Messages to token ids, once: what comes out here is what the engine reads and what the learner trains on."""

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast

from rollout.errors import DataError, UsageError
from rollout.files import hash_json
from rollout.types import Message, Prompt, TokenIds, TokenSignature

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
_OURS = {"conversation", "messages", "chat_template", "add_generation_prompt", "continue_final_message", "tokenize"}
_CLOCK = "strftime_now"
_PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")


class PromptEncoder:
    """The tokenizer and chat template of a policy.

    path: a model folder or a hub name. chat_template: a Jinja text, or the path of a file that holds one, in place of
    the tokenizer's own. system_prompt is used where a prompt has no system turn. max_prompt_tokens counts the template
    too. frozen_date (YYYY-MM-DD) is what templates that print today's date print; None leaves them their clock.
    Raises UsageError where tokenizer, chat template or end-of-sequence token is missing or cannot be used.
    """

    def __init__(
        self,
        *,
        path: Path | str,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        system_prompt: str | None = None,
        max_prompt_tokens: int | None = None,
        frozen_date: str | None = None,
    ) -> None:
        self._path = path
        self._tokenizer = _load_tokenizer(path)
        self._template = self._find_template(chat_template)
        self._kwargs = dict(chat_template_kwargs or {})
        if wrong := sorted(_OURS & set(self._kwargs)):
            raise UsageError(f"policy.chat_template_kwargs sets {wrong[0]!r}, which is fixed; remove it")
        self._system_prompt = system_prompt
        self._max_prompt_tokens = max_prompt_tokens
        self._frozen_date = frozen_date if _CLOCK in self._template else None
        self.stop_ids = self._find_stop_ids()
        self.signature = self._sign()
        self._try_template()

    @property
    def pad_id(self) -> int:
        """The padding id; where the tokenizer has none a stop id, since padding is masked wherever it stands."""
        pad = self._tokenizer.pad_token_id
        return self.stop_ids[0] if pad is None else int(pad)

    def encode(self, prompt: Prompt) -> TokenIds:
        """The template applied with the start of an answer, tokenised once: int32[P].

        Raises DataError with reason `prompt_too_long`, `prompt_invalid_unicode` or `prompt_unusable`.
        """
        token_ids = self._apply(prompt.messages)
        if self._max_prompt_tokens is not None and len(token_ids) > self._max_prompt_tokens:
            raise DataError("prompt_too_long", f"{len(token_ids)} tokens, at most {self._max_prompt_tokens} fit")
        return token_ids

    def decode(self, token_ids: TokenIds) -> str:
        """Text for people and judges: special tokens left out, nothing else stripped or tidied."""
        ids = [int(token) for token in token_ids]
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _apply(self, messages: Sequence[Message]) -> TokenIds:
        turns = [dict(message) for message in messages]
        if self._system_prompt is not None and all(turn["role"] != "system" for turn in turns):
            turns.insert(0, {"role": "system", "content": self._system_prompt})
        clock = {} if self._frozen_date is None else {_CLOCK: datetime.fromisoformat(self._frozen_date).strftime}
        try:
            text = self._tokenizer.apply_chat_template(
                turns,
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=False,
                **{**self._kwargs, **clock},
            )
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise DataError("prompt_invalid_unicode", str(error)) from error
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError("prompt_unusable", f"the chat template refused it: {error}") from error
        token_ids = np.asarray(self._tokenizer(text, add_special_tokens=False)["input_ids"], dtype=np.int32)
        if len(token_ids) == 0:
            raise DataError("prompt_unusable", "the chat template made no tokens of it")
        return token_ids

    def _try_template(self) -> None:
        try:
            self._apply([Message(role="user", content="Hello")])
        except DataError as error:
            system = "" if self._system_prompt is None else "policy.system_prompt and "
            raise UsageError(
                f"the chat template of {self._path} cannot render {system}one user turn ({error.detail}); "
                "mend it, or give another as policy.chat_template"
            ) from error

    def _find_template(self, given: str | None) -> str:
        if given is not None:
            is_file = "{" not in given
            if is_file and not Path(given).is_file():
                raise UsageError(
                    f"policy.chat_template is {given!r}, neither a Jinja template (no brace in it) nor a file; "
                    "give the template's text, or the path of its file"
                )
            return Path(given).read_text(encoding="utf-8") if is_file else given
        if self._tokenizer.chat_template is None:
            raise UsageError(
                f"the tokenizer of {self._path} has no chat template, so messages cannot become tokens; "
                "give one as policy.chat_template"
            )
        try:
            return str(self._tokenizer.get_chat_template())
        except ValueError as error:
            raise UsageError(
                f"the tokenizer of {self._path} has several chat templates, none of them named default; "
                "give one as policy.chat_template"
            ) from error

    def _find_stop_ids(self) -> tuple[int, ...]:
        found = {self._tokenizer.eos_token_id, *_generation_stops(self._path)} - {None}
        if not found:
            raise UsageError(
                f"{self._path} has no end-of-sequence token, so no completion could ever stop; "
                "set eos_token in tokenizer_config.json, or eos_token_id in generation_config.json"
            )
        return tuple(sorted(int(token) for token in found))

    def _sign(self) -> TokenSignature:
        # The date counts only where the template prints it: equal tokens, equal signature.
        arguments = {"kwargs": self._kwargs, "system_prompt": self._system_prompt, "date": self._frozen_date}
        return TokenSignature(
            tokenizer=hash_json(_tokenizer_content(self._tokenizer)),
            chat_template=hash_json(self._template),
            template_kwargs=hash_json(arguments),
            stop_ids=self.stop_ids,
        )


def _load_tokenizer(path: Path | str) -> Any:
    if Path(path).is_dir() and not any((Path(path) / name).is_file() for name in _TOKENIZER_FILES):
        # transformers makes up an empty tokenizer for some model types, instead of complaining
        raise UsageError(
            f"{path} has no tokenizer (none of {', '.join(_TOKENIZER_FILES)}); "
            "copy the tokenizer's files into the folder, or give a policy.path that has them"
        )
    try:
        if _is_plain(Path(path)):
            return PreTrainedTokenizerFast.from_pretrained(path)
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"cannot load a tokenizer from {path}: {reason}; policy.path must be a model folder or a hub name"
        ) from error


def _is_plain(folder: Path) -> bool:
    """Whether AutoTokenizer would choose the plain fast tokenizer; choosing it ourselves spares the import of torch."""
    if not (folder / "tokenizer.json").is_file():
        return False
    return _json_of(folder / "tokenizer_config.json").get("tokenizer_class") in _PLAIN_CLASSES


def _generation_stops(path: Path | str) -> list[int]:
    folder = Path(path)
    if not folder.is_dir():
        from transformers import GenerationConfig

        try:
            stops = GenerationConfig.from_pretrained(path).eos_token_id
        except OSError:  # a model may do without one
            return []
    else:
        stops = _json_of(folder / "generation_config.json").get("eos_token_id")
    return [] if stops is None else stops if isinstance(stops, list) else [stops]


def _json_of(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file. Raises UsageError where it is not JSON."""
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}; copy it from the model again") from error
    return found if isinstance(found, dict) else {}


def _tokenizer_content(tokenizer: Any) -> Any:
    # What decides the ids, whichever files it came from. Padding and truncation are left to each call.
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    if getattr(tokenizer, "is_fast", False):
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        return [{name: part for name, part in content.items() if name not in {"padding", "truncation"}}, special]
    return [tokenizer.get_vocab(), special]
