"""Tells whoever resubmits a run that a round which it waited for is sealed."""

import hmac
import json
import logging
import os
from typing import Any, Protocol

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from judge.human.rounds import Rounds
from judge.human.types import RoundView
from rollout.errors import InfraError

SECRET = "RONDO_WEBHOOK_SECRET"
_ATTEMPTS = 3
_TIMEOUT_S = 10.0
_log = logging.getLogger(__name__)


class Client(Protocol):
    """What is used of an httpx.Client."""

    def post(self, url: str, *, content: bytes, headers: dict[str, str], timeout: float) -> Any: ...


def tell(rounds: Rounds, client: Client, *, wait: Any = None) -> int:
    """POST every sealed round to its webhook until that answers with 2xx; how many were told just now.

    A round stays untold where its webhook does not answer, and is tried again by the next call. The body is signed
    (X-Rondo-Signature: sha256=HMAC of the body) where the environment has RONDO_WEBHOOK_SECRET.
    """
    num_told = 0
    for view in rounds.untold():
        retrying = Retrying(
            retry=retry_if_exception_type((InfraError, OSError)),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait or wait_exponential_jitter(initial=0.5, max=10.0),
        )
        try:
            retrying(_post, client, view)
        except RetryError as error:
            _log.warning("the webhook of round %d is told later: %s", view.key.round_id, error.last_attempt.exception())
            continue
        rounds.told(view.row_id)
        num_told += 1
    return num_told


def _post(client: Client, view: RoundView) -> None:
    content = json.dumps(message(view), ensure_ascii=True, sort_keys=True).encode("ascii")
    headers = {"Content-Type": "application/json"}
    secret = os.environ.get(SECRET)
    if secret:
        headers["X-Rondo-Signature"] = "sha256=" + hmac.new(secret.encode(), content, "sha256").hexdigest()
    try:
        answer = client.post(view.rules.webhook, content=content, headers=headers, timeout=_TIMEOUT_S)
    except Exception as error:  # of whatever client it is: nobody was told, which is all that counts here
        raise InfraError(f"{view.rules.webhook}: {error}") from error
    if not 200 <= answer.status_code < 300:
        raise InfraError(f"{view.rules.webhook} answered {answer.status_code}; expected 2xx")


def message(view: RoundView) -> dict[str, Any]:
    """What the webhook gets."""
    return {
        "event": "round_sealed",
        "run_id": view.key.run_id,
        "run_name": view.run_name,
        "round_id": view.key.round_id,
        "purpose": view.key.purpose,
        "sealed_by": view.sealed_by,
        "sha256": view.sha256,
        "num_tasks": view.num_tasks,
        "num_resolved": view.num_resolved,
        "num_given_up": view.num_given_up,
        "resume": view.rules.resume,
    }
