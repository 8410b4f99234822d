"""Reads what an endpoint answered. Whatever cannot be read is a reason of its own, never a label."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from judge.llm.request import LABELS, SCORES, VERDICTS
from rollout.errors import DataError

_VALUES = {"A": 1.0, "tie": 0.5, "B": 0.0}
_MAX_LOGPROB = 1e-3  # rounding may lift a sure token a little above log 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens that the endpoint counted."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What is kept of a response: the first choice, and of its first token the likeliest (token, log-probability)."""

    text: str | None
    refusal: str | None = None
    finish_reason: str | None = None
    top: tuple[tuple[str, float], ...] | None = None
    num_choices: int = 1

    def kept(self) -> dict[str, Any]:
        """As JSON."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> "Answer":
        """Back from `kept`."""
        top = kept.get("top")
        return cls(**{**kept, "top": None if top is None else tuple((token, logp) for token, logp in top)})


def parse_response(body: bytes) -> tuple[Answer, Usage | None]:
    """A chat completion as it came over the wire. Raises ValueError where it is none: cut off, or not this JSON."""
    payload = json.loads(body)
    if not isinstance(payload, dict) or not isinstance(payload.get("choices"), list):
        raise ValueError(f"no chat completion: {body[:200].decode(errors='replace')!r}")
    used = _usage(payload.get("usage"))
    if not payload["choices"]:
        return Answer(text=None, num_choices=0), used
    choice = payload["choices"][0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ValueError(f"a choice without a message: {body[:200].decode(errors='replace')!r}")
    return Answer(
        text=_text(message.get("content")),
        refusal=_text(message.get("refusal")),
        finish_reason=_text(choice.get("finish_reason")),
        top=_top(choice.get("logprobs")),
        num_choices=len(payload["choices"]),
    ), used


def read_label(answer: Answer) -> float:
    """P(A) / (P(A) + P(B)) from the first token's log-probabilities, whatever their order.

    Each label's probability is summed over the tokens that are that label with white space around it. Raises
    DataError: empty, refused, no_logprobs, unreadable, no_label.
    """
    _refuse_unusable(answer)
    if not answer.top:
        raise DataError("no_logprobs", "the endpoint gave no log-probabilities")
    mass = dict.fromkeys(LABELS, 0.0)
    for token, logp in answer.top:
        if math.isnan(logp) or logp > _MAX_LOGPROB:
            raise DataError("unreadable", f"log-probability {logp} of token {token!r}")
        if token.strip() in mass:
            mass[token.strip()] += math.exp(logp)
    total = sum(mass.values())
    if total == 0.0:
        raise DataError("no_label", f"neither A nor B among {[token for token, _ in answer.top]!r}")
    return mass["A"] / total


def read_verdict(answer: Answer) -> float:
    """1 for A, 0 for B, 1/2 for a tie. Raises DataError: empty, refused, cut_off, unreadable, both_labels, no_label."""
    verdict = _field(answer, "verdict")
    if not isinstance(verdict, str) or verdict not in VERDICTS:
        raise DataError("no_label", f"verdict is {verdict!r:.100}, expected one of {', '.join(VERDICTS)}")
    return _VALUES[verdict]


def read_score(answer: Answer) -> float:
    """A grade from 1 to 10. Raises DataError: empty, refused, cut_off, unreadable, both_labels, score_out_of_range."""
    score = _field(answer, "score")
    if type(score) is not int or score not in SCORES:
        raise DataError("score_out_of_range", f"score is {score!r:.100}, expected a whole number from 1 to 10")
    return float(score)


def _refuse_unusable(answer: Answer) -> None:
    if answer.num_choices == 0:
        raise DataError("empty", "no choices")
    if answer.refusal or answer.finish_reason == "content_filter":
        raise DataError("refused", answer.refusal or "stopped by a content filter")


def _field(answer: Answer, name: str) -> Any:
    _refuse_unusable(answer)
    if not (answer.text or "").strip():
        raise DataError("empty", "no text")
    if answer.finish_reason == "length":
        raise DataError("cut_off", "the verdict did not end within judge.max_tokens")
    try:
        found = json.loads(_unfenced(answer.text or ""), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError) as error:
        raise DataError("unreadable", f"no JSON: {str(error)[:100]}") from error
    if not isinstance(found, dict) or name not in found:
        raise DataError("unreadable", f"no JSON object with {name!r}")
    return found[name]


def _unfenced(text: str) -> str:
    """Without the Markdown fence that endpoints which know no response_format put around JSON."""
    lines = text.strip().splitlines()
    fenced = len(lines) > 2 and lines[0] in ("```", "```json") and lines[-1] == "```"
    return "\n".join(lines[1:-1]) if fenced else text


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    repeated = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if repeated:
        raise DataError("both_labels", f"{repeated[0]!r} is given more than once")
    return dict(pairs)


def _usage(usage: Any) -> Usage | None:
    prompt, completion = (
        usage.get(name) if isinstance(usage, dict) else None for name in ("prompt_tokens", "completion_tokens")
    )
    if type(prompt) is int and type(completion) is int and min(prompt, completion) >= 0:
        return Usage(prompt_tokens=prompt, completion_tokens=completion)
    return None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _top(logprobs: Any) -> tuple[tuple[str, float], ...] | None:
    """The first token's alternatives; the sampled token too, which some endpoints leave out of them."""
    try:
        first = logprobs["content"][0]
        entries = list(first.get("top_logprobs") or [])
        if first["token"] not in [entry["token"] for entry in entries]:
            entries.append(first)
        # Entries of equal text stay apart: two ids of a vocabulary may be spelt alike.
        return tuple(
            (str(one["token"]), -math.inf if one["logprob"] is None else float(one["logprob"])) for one in entries
        )
    except (TypeError, KeyError, IndexError, ValueError, AttributeError):
        return None
