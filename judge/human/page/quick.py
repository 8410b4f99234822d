"""What annotators' scripts ask for with every pair, a label's receipt and the next pair, past the framework.

The guard finds these two requests and answers them itself, in one way to a thread; the framework's routing, its
dependencies and its way to another thread took as long as all that the queue does for them.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Literal

from anyio import CapacityLimiter
from fastapi import Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.types import Scope

from judge.human.page.refusals import Refused, of_body
from judge.human.page.shell import Page
from judge.human.page.stage import as_json, stage
from judge.human.types import Identity, Strength, Submission

Lane = Literal["labels", "pairs"]
_LABELS = "/api/labels/"
# Threads that all want the interpreter hold up those that hold a lock in the database; and a label must not wait while
# pairs are made, so these have threads of their own, and few.
_NUM_THREADS: Mapping[Lane, int] = {"labels": 4, "pairs": 2}


class LabelBody(BaseModel):
    """What the script sends; everything else is refused."""

    model_config = ConfigDict(extra="forbid")

    choice: Literal["left", "right", "tie", "both_bad", "skip"]
    strength: Strength | None = None
    reason: str = Field("", max_length=500)
    comment: str = ""
    criteria: dict[str, Literal["left", "right", "tie"]] = Field(default_factory=dict, max_length=50)


@dataclass(frozen=True, kw_only=True)
class Deed:
    """What is done for somebody who may: blocks, so it runs in a thread of its lane."""

    lane: Lane
    act: Callable[[Page, Identity, Request, bytes], Response]


def lanes() -> Mapping[Lane, CapacityLimiter]:
    """How many threads each lane has."""
    return {lane: CapacityLimiter(num_threads) for lane, num_threads in _NUM_THREADS.items()}


def find(scope: Scope) -> Deed | None:
    """The deed for a request, None where the framework sees to it."""
    method, path = scope["method"], scope["path"]
    if path == "/api/next":
        return _NEXT if method == "GET" else _OTHER
    token = path.removeprefix(_LABELS)
    if not token or token == path or "/" in token:
        return None
    return Deed(lane="labels", act=partial(_submit, token)) if method == "POST" else _OTHER


def _next_pair(page: Page, identity: Identity, request: Request, _body: bytes) -> Response:
    """The next pair as a piece of the page, so that it is there before it is needed; other_than is on the desk."""
    other_than = request.query_params.get("other_than")
    return as_json(stage(page, page.tasks.draw(identity.annotator_id, other_than=other_than)))


def _submit(token: str, page: Page, identity: Identity, request: Request, body: bytes) -> Response:
    """Takes a label: the same one again is answered as before, another one for the same pair is refused."""
    submission = _submission(request, body)
    return as_json(asdict(page.tasks.submit(identity.annotator_id, token, submission)))


def _submission(request: Request, body: bytes) -> Submission:
    if not request.headers.get("content-type", "").lower().startswith("application/json"):
        raise of_body([{"loc": (), "msg": "A label is JSON"}])
    try:
        found = LabelBody.model_validate(json.loads(body))
    except ValidationError as error:
        raise of_body(error.errors()) from None
    except (ValueError, RecursionError):
        raise of_body([{"loc": (), "msg": "JSON decode error"}]) from None
    return Submission(**found.model_dump())


def _other_method(*_: object) -> Response:
    raise Refused(405, "This page does not do that.", "refused")


_NEXT = Deed(lane="pairs", act=_next_pair)
_OTHER = Deed(lane="pairs", act=_other_method)
