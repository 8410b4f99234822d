"""One request to the endpoint: the bytes that are sent, and the hash that its answer is kept under."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from judge.llm.config import LlmBackend
from judge.llm.rubric import Rubric

LABELS = ("A", "B")
VERDICTS = ("A", "B", "tie")
SCORES = tuple(range(1, 11))
_NUM_TOP_LOGPROBS = 20  # as many as hosted endpoints give; a rare label should still be among them


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """body is sent as it is; key is the sha256 of it, the template's signature and the place among the samples.

    max_prompt_tokens is an upper bound (a token is at least a byte), likely_prompt_tokens an estimate.
    """

    body: bytes
    key: str
    max_prompt_tokens: int
    likely_prompt_tokens: int
    max_completion_tokens: int


def make_request(
    config: LlmBackend, rubric: Rubric, messages: Sequence[Mapping[str, str]], *, sample: int = 0, reask: int = 0
) -> Request:
    """The request for one verdict or score. Fields of extra_body come last: they win, and null leaves a field out."""
    fields: dict[str, Any] = {
        "model": config.model,
        "messages": list(messages),
        "temperature": config.temperature,
        **_reply_fields(config),
        **config.extra_body,
    }
    body = canonical({name: value for name, value in fields.items() if value is not None})
    about = canonical({"template": rubric.signature, "sample": sample, "reask": reask})
    return Request(
        body=body,
        key=hashlib.sha256(about + b"\n" + body).hexdigest(),
        max_prompt_tokens=len(body),
        likely_prompt_tokens=len(body) // 3,
        max_completion_tokens=_max_completion_tokens(fields),
    )


def canonical(value: Any) -> bytes:
    """JSON without spaces, in ASCII. Keys keep their order: in a schema it is the order of the reply."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def _reply_fields(config: LlmBackend) -> dict[str, Any]:
    if config.method == "logprobs":
        return {"max_tokens": 1, "logprobs": True, "top_logprobs": _NUM_TOP_LOGPROBS}
    answer: dict[str, Any] = {"verdict": {"type": "string", "enum": list(VERDICTS)}}
    if config.style == "pointwise":
        answer = {"score": {"type": "integer", "enum": list(SCORES)}}
    schema = {
        "type": "object",
        "properties": {"reasoning": {"type": "string"}, **answer},
        "required": ["reasoning", *answer],
        "additionalProperties": False,
    }
    return {
        "max_tokens": config.max_tokens,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": next(iter(answer)), "strict": True, "schema": schema},
        },
    }


def _max_completion_tokens(fields: Mapping[str, Any]) -> int:
    limits = [fields.get(name) for name in ("max_tokens", "max_completion_tokens")]
    given = [limit for limit in limits if isinstance(limit, int)]
    num_choices = fields.get("n", 1)
    return (max(given) if given else 0) * (num_choices if isinstance(num_choices, int) else 1)
