"""What an attempt that brought no answer means: whether it is worth sending again, and after how long."""

import email.utils
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import openai

from judge.llm.secret import redact
from rollout.errors import DataError, InfraError

_RETRIED = {408: "request_timeout", 409: "conflict", 429: "rate_limited"}
_FATAL = (401, 403, 404)
_DETAIL_CHARS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Failure:
    """kind is what it is counted under; what says it in words.

    endpoint_down: it found no working endpoint; may_cost: the endpoint may have charged for it, and did not say how
    much; wait_s is what the endpoint asked to wait; stop is raised instead of trying again.
    """

    kind: str
    what: str
    endpoint_down: bool = False
    may_cost: bool = False
    wait_s: float | None = None
    stop: DataError | InfraError | None = None


def failure_of(error: Exception, *, key: str, endpoint: str, model: str) -> Failure:
    """Classify what the client raised, or what parsing its body did."""
    if isinstance(error, openai.APIStatusError):
        return _status_failure(error, key=key, endpoint=endpoint, model=model)
    if isinstance(error, ValueError):
        return Failure(kind="unusable_body", what=_said(error, key), may_cost=True)
    cause = error.__cause__ or error
    # A connection that was never made cost nothing; aiohttp's transport calls a refused one a ConnectTimeout.
    connected = not type(cause).__name__.startswith("Connect")
    if isinstance(error, TimeoutError | openai.APITimeoutError) and connected:
        return Failure(kind="timeout", what="no answer within judge.timeout_s", endpoint_down=True, may_cost=True)
    what = f"no connection: {_said(cause, key)}" if not connected else f"{type(cause).__name__}: {_said(cause, key)}"
    return Failure(kind="connection", what=what, endpoint_down=True, may_cost=connected)


def retry_after_s(headers: Any, *, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for, given in seconds or as an HTTP date; None where it gives neither."""
    for name, seconds in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        text = headers.get(name)
        if text is None:
            continue
        try:
            return max(0.0, float(text) * seconds)
        except ValueError:
            pass
        try:
            return max(0.0, (email.utils.parsedate_to_datetime(text) - now).total_seconds())
        except (TypeError, ValueError):
            pass
    return None


def _status_failure(error: openai.APIStatusError, *, key: str, endpoint: str, model: str) -> Failure:
    status = error.status_code
    what = f"HTTP {status}: {_said(error, key)}"
    if status in _RETRIED or status >= 500:
        return Failure(
            kind=_RETRIED.get(status, "server_error"),
            what=what,
            endpoint_down=status >= 500,
            wait_s=retry_after_s(error.response.headers, now=datetime.now().astimezone()),
        )
    if status in _FATAL:
        todo = "name a model that it serves in judge.model" if status == 404 else "check the key and what it may do"
        stop = InfraError(f"judge.endpoint {endpoint} refuses requests for model {model!r}: {what}; {todo}")
        return Failure(kind="refused", what=what, stop=stop)
    return Failure(kind="refused", what=what, stop=DataError("refused_by_endpoint", what))


def _said(error: BaseException, key: str) -> str:
    return " ".join(redact(str(error), key).split())[:_DETAIL_CHARS]
