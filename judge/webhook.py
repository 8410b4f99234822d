"""Webhooks: a POST of JSON, signed where there is a secret, and tried again until it is answered with 2xx."""

import hmac
import json
import os
from collections.abc import Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from rollout.errors import InfraError

SECRET = "RONDO_WEBHOOK_SECRET"
_ATTEMPTS = 3
_TIMEOUT_S = 10.0


class Client(Protocol):
    """What is used of an httpx.Client."""

    def post(self, url: str, *, content: bytes, headers: dict[str, str], timeout: float) -> Any: ...


def post(client: Client, url: str, body: Mapping[str, Any], *, stop: Any = None, wait: Any = None) -> None:
    """POST a body until it is answered with 2xx. Raises InfraError where it is not.

    stop, wait: tenacity's, by default three attempts with a growing pause. The body is signed (X-Rondo-Signature:
    sha256=HMAC of the body) where the environment has RONDO_WEBHOOK_SECRET. Errors name the host alone: the rest of an
    address is often its password.
    """
    content = json.dumps(body, ensure_ascii=True, sort_keys=True).encode("ascii")
    headers = {"Content-Type": "application/json"}
    secret = os.environ.get(SECRET)
    if secret:
        headers["X-Rondo-Signature"] = "sha256=" + hmac.new(secret.encode(), content, "sha256").hexdigest()
    retrying = Retrying(
        retry=retry_if_exception_type(InfraError),
        stop=stop or stop_after_attempt(_ATTEMPTS),
        wait=wait or wait_exponential_jitter(initial=0.5, max=10.0),
        reraise=True,
    )
    retrying(_post, client, url, content, headers)


def _post(client: Client, url: str, content: bytes, headers: dict[str, str]) -> None:
    place = f"webhook at {urlsplit(url).hostname}"
    try:
        answer = client.post(url, content=content, headers=headers, timeout=_TIMEOUT_S)
    except Exception as error:  # of whatever client it is: nobody was told, which is all that counts here
        reason = str(error).replace(url, "its address")
        raise InfraError(f"{place}: {type(error).__name__}: {reason}") from error
    if not 200 <= answer.status_code < 300:
        raise InfraError(f"{place} answered {answer.status_code}; expected 2xx")
