"""How a request is refused: JSON for scripts, a page for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from judge.human.errors import QueueRefusal, TooFast
from judge.human.page.shell import Page, wants_json


class Refused(Exception):
    """The request goes no further."""

    def __init__(self, status: int, message: str, kind: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.retry_after_s = retry_after_s


def refusal(page: Page, request: Request, refused: Refused) -> Response:
    """The answer to a refused request: JSON for scripts, a page for people."""
    headers = {"retry-after": str(max(1, round(refused.retry_after_s)))} if refused.retry_after_s else {}
    if wants_json(request):
        body: dict[str, Any] = {"error": refused.message, "kind": refused.kind}
        if refused.retry_after_s:
            body["retry_after_s"] = refused.retry_after_s
        return JSONResponse(body, status_code=refused.status, headers=headers)
    values = {"status": refused.status, "message": refused.message}
    return page.render(request, "error.html", status_code=refused.status, headers=headers, **values)


def of_queue(error: QueueRefusal) -> Refused:
    """What the queue refuses, as an answer to the request that asked for it."""
    wait_s = error.retry_after_s if isinstance(error, TooFast) else 0.0
    return Refused(error.status, str(error), _kind(error), wait_s)


def of_body(problems: Sequence[Mapping[str, Any]]) -> Refused:
    """A request that is not as its route wants it; problems are pydantic's."""
    message = "The request is not one that this page takes."
    if problems:
        where = ".".join(str(part) for part in problems[0]["loc"] if part != "body")
        message = f"The request is not one that this page takes: {where or 'body'}: {problems[0]['msg']}."
    return Refused(422, message, "invalid")


def _kind(error: QueueRefusal) -> str:
    name = type(error).__name__
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
