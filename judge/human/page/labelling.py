"""The routes that annotators use: overview, labelling, guidelines and settings, and what their script asks for."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from hashlib import sha256
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, Field

from judge.human.errors import QueueRefusal
from judge.human.page.difference import difference
from judge.human.page.rendering import MAX_CHARS, render
from judge.human.page.shell import Page, SignedIn, ThePage
from judge.human.types import Lease, RoundView, Strength, Submission

router = APIRouter()
Side = Literal["left", "right"]
Sided = Literal["left", "right", "tie"]

_NUM_HISTORY = 20
_CHUNK_CHARS = 65_536
# Action, what its key does, and the words on its button.
ACTIONS = (
    ("a", "The left answer is better"),
    ("b", "The right answer is better"),
    ("tie", "Both are equally good"),
    ("both_bad", "Both are bad"),
    ("skip", "Skip the pair, with a reason"),
    ("undo", "Undo the last label"),
    ("diff", "Show what differs"),
    ("raw", "Show the source text"),
    ("help", "Show the keys"),
)
SKIP_REASONS = (
    "I do not know enough about the subject",
    "I do not read this language well",
    "An answer is broken or cannot be read",
    "I would rather not read this",
)


class LabelBody(BaseModel):
    """What the script sends; everything else is refused."""

    model_config = ConfigDict(extra="forbid")

    choice: Literal["left", "right", "tie", "both_bad", "skip"]
    strength: Strength | None = None
    reason: str = Field("", max_length=500)
    comment: str = ""
    criteria: dict[str, Sided] = Field(default_factory=dict, max_length=50)


@router.get("/")
def home(request: Request, page: ThePage, identity: SignedIn) -> Response:
    """Own progress, the rounds that wait, and the way to the next pair."""
    rounds = page.rounds.all()
    return page.render(
        request,
        "home.html",
        progress=page.tasks.progress(identity.annotator_id),
        waiting=[_shown_round(view) for view in rounds if view.state != "sealed"],
        num_sealed=sum(view.state == "sealed" for view in rounds),
    )


@router.get("/label")
def label(request: Request, page: ThePage, identity: SignedIn) -> Response:
    """The page with the pair that the annotator holds, or with the next one."""
    try:
        stage = _stage(page, page.tasks.draw(identity.annotator_id, holding=1))["html"]
        refusal = ""
    except QueueRefusal as error:
        stage, refusal = "", str(error)
    history = page.tasks.history(identity.annotator_id, _NUM_HISTORY)
    return page.render(
        request,
        "label.html",
        stage=Markup(stage),  # made by task.html, which escapes or sanitises all that it holds
        refusal=refusal,
        progress=page.tasks.progress(identity.annotator_id),
        undoable=[item.label_id for item in reversed(history) if item.undoable],
        actions=ACTIONS,
        reasons=SKIP_REASONS,
    )


@router.get("/guidelines")
def guidelines(request: Request, page: ThePage, identity: SignedIn) -> Response:
    """The guidelines of the rounds that are not sealed yet, each once."""
    found: dict[str, list[int]] = {}
    for view in page.rounds.all():
        if view.state != "sealed" and view.rules.guidelines:
            found.setdefault(view.rules.guidelines, []).append(view.key.round_id)
    texts = [{"rounds": sorted(set(rounds)), **_answer(text)} for text, rounds in found.items()]
    return page.render(request, "guidelines.html", texts=texts)


@router.get("/settings")
def settings(request: Request, page: ThePage, identity: SignedIn) -> Response:
    """Keys of this browser: its script keeps them there."""
    return page.render(request, "settings.html", actions=ACTIONS)


@router.get("/api/next")
def next_pair(page: ThePage, identity: SignedIn, other_than: str | None = None) -> Response:
    """The next pair as a piece of the page, so that it is there before it is needed; other_than is on the desk."""
    lease = page.tasks.draw(identity.annotator_id, other_than=other_than)
    return _json(_stage(page, lease))


@router.post("/api/labels/{token}")
def submit(token: str, body: LabelBody, page: ThePage, identity: SignedIn) -> Response:
    """Takes a label: the same one again is answered as before, another one for the same pair is refused."""
    receipt = page.tasks.submit(identity.annotator_id, token, Submission(**body.model_dump()))
    return _json(asdict(receipt))


@router.post("/api/labels/{label_id}/undo")
def undo(label_id: int, page: ThePage, identity: SignedIn) -> Response:
    """Takes an own label back and hands its pair out again."""
    return _json(_stage(page, page.tasks.undo(identity.annotator_id, label_id)))


@router.post("/api/leases/{token}/heartbeat")
def heartbeat(token: str, page: ThePage, identity: SignedIn) -> Response:
    """Holds a pair longer."""
    lease = page.tasks.heartbeat(identity.annotator_id, token)
    return _json(_times(page, lease))


@router.post("/api/leases/{token}/release")
def release(token: str, page: ThePage, identity: SignedIn) -> Response:
    """Gives a pair back unlabelled."""
    page.tasks.release(identity.annotator_id, token)
    return _json({})


@router.get("/api/leases/{token}/raw/{side}")
def raw(token: str, side: Side, page: ThePage, identity: SignedIn) -> Response:
    """An answer as it is, whole, as plain text; a lone surrogate, which UTF-8 lacks, as its escape."""
    lease = page.tasks.current(identity.annotator_id, token)
    text = lease.left if side == "left" else lease.right
    return StreamingResponse(
        _encoded(text),
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{side}.txt"'},
    )


@router.get("/api/leases/{token}/difference")
def differing(token: str, page: ThePage, identity: SignedIn) -> Response:
    """Both answers with what the other one lacks marked."""
    lease = page.tasks.current(identity.annotator_id, token)
    return _json(asdict(difference(lease.left, lease.right)))


@router.get("/api/leases/{token}/guidelines")
def guidelines_of(token: str, page: ThePage, identity: SignedIn) -> Response:
    """The guidelines of the pair's round."""
    lease = page.tasks.current(identity.annotator_id, token)
    return _json({"html": render(lease.rules.guidelines).html if lease.rules.guidelines else ""})


@router.get("/api/progress")
def progress(page: ThePage, identity: SignedIn) -> Response:
    """Own progress and that of the open rounds; times as seconds from now."""
    found = page.tasks.progress(identity.annotator_id)
    values = asdict(found)
    return _json({**values, "deadline_in_s": _seconds_until(page, values.pop("deadline_at"))})


def _stage(page: Page, lease: Lease | None) -> dict[str, Any]:
    """What the page shows: a pair, or that there is none. Nothing of the lease but this goes to the browser."""
    template = page.templates.get_template("task.html")
    if lease is None:
        return {"state": "empty", "html": template.render(pair=None)}
    pair = {
        "token": lease.token,
        "round_id": lease.round_id,
        "purpose": lease.purpose,
        "turns": [{"role": message["role"], **_answer(message["content"])} for message in lease.messages],
        "answers": [{"side": "left", **_answer(lease.left)}, {"side": "right", **_answer(lease.right)}],
        "is_same": lease.left == lease.right,
        "criteria": lease.rules.criteria,
        "guidelines": sha256(lease.rules.guidelines.encode("utf-8", "replace")).hexdigest()[:12],
        "min_dwell_s": lease.rules.min_dwell_s,
        "lease_s": lease.rules.lease_s,
        "former": dict(lease.former) if lease.former else None,
        **_times(page, lease),
    }
    return {"state": "pair", "token": lease.token, "html": template.render(pair=pair)}


def _answer(text: str) -> dict[str, Any]:
    rendered = render(text)
    return {
        "html": Markup(rendered.html),  # sanitised by render
        "is_empty": not text.strip(),
        "is_cut": rendered.is_cut,
        "num_chars": rendered.num_chars,
        "max_chars": MAX_CHARS,
    }


def _times(page: Page, lease: Lease) -> dict[str, Any]:
    return {
        "expires_in_s": _seconds_until(page, lease.expires_at),
        "deadline_in_s": _seconds_until(page, lease.deadline_at),
    }


def _seconds_until(page: Page, at: float | None) -> float | None:
    return None if at is None else round(max(0.0, at - page.clock()), 1)


def _shown_round(view: RoundView) -> dict[str, Any]:
    """A round as annotators see it: without the run's name, which often names a model."""
    return {
        "number": view.key.round_id,
        "is_held_out": view.key.purpose == "held_out",
        "num_tasks": view.num_tasks,
        "num_done": view.num_resolved + view.num_given_up,
        "is_filling": view.state == "open",
        "deadline_at": view.deadline_at,
    }


def _encoded(text: str) -> Iterator[bytes]:
    for start in range(0, len(text), _CHUNK_CHARS):
        yield text[start : start + _CHUNK_CHARS].encode("utf-8", "backslashreplace")


def _json(values: dict[str, Any]) -> Response:
    """JSON in ASCII: a lone surrogate in an answer survives."""
    return Response(json.dumps(values), media_type="application/json")
