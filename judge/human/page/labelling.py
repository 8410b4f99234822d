"""The routes that annotators use: overview, labelling, guidelines and settings, and what their script asks for.

The two requests that it sends with every pair, for a label and the next pair, are in quick.py.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from markupsafe import Markup

from judge.human.errors import QueueRefusal
from judge.human.page.difference import difference
from judge.human.page.rendering import render
from judge.human.page.shell import SignedIn, ThePage
from judge.human.page.stage import answer, as_json, seconds_until, stage, times
from judge.human.types import RoundView

router = APIRouter()
Side = Literal["left", "right"]

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
        shown = stage(page, page.tasks.draw(identity.annotator_id, holding=1))["html"]
        refusal = ""
    except QueueRefusal as error:
        shown, refusal = "", str(error)
    history = page.tasks.history(identity.annotator_id, _NUM_HISTORY)
    return page.render(
        request,
        "label.html",
        stage=Markup(shown),  # made by task.html, which escapes or sanitises all that it holds
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
    texts = [{"rounds": sorted(set(rounds)), **answer(text)} for text, rounds in found.items()]
    return page.render(request, "guidelines.html", texts=texts)


@router.get("/settings")
def settings(request: Request, page: ThePage, identity: SignedIn) -> Response:
    """Keys of this browser: its script keeps them there."""
    return page.render(request, "settings.html", actions=ACTIONS)


@router.post("/api/labels/{label_id}/undo")
def undo(label_id: int, page: ThePage, identity: SignedIn) -> Response:
    """Takes an own label back and hands its pair out again."""
    return as_json(stage(page, page.tasks.undo(identity.annotator_id, label_id)))


@router.post("/api/leases/{token}/heartbeat")
def heartbeat(token: str, page: ThePage, identity: SignedIn) -> Response:
    """Holds a pair longer."""
    lease = page.tasks.heartbeat(identity.annotator_id, token)
    return as_json(times(page, lease))


@router.post("/api/leases/{token}/release")
def release(token: str, page: ThePage, identity: SignedIn) -> Response:
    """Gives a pair back unlabelled."""
    page.tasks.release(identity.annotator_id, token)
    return as_json({})


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
    return as_json(asdict(difference(lease.left, lease.right)))


@router.get("/api/leases/{token}/guidelines")
def guidelines_of(token: str, page: ThePage, identity: SignedIn) -> Response:
    """The guidelines of the pair's round."""
    lease = page.tasks.current(identity.annotator_id, token)
    return as_json({"html": render(lease.rules.guidelines).html if lease.rules.guidelines else ""})


@router.get("/api/progress")
def progress(page: ThePage, identity: SignedIn) -> Response:
    """Own progress and that of the open rounds; times as seconds from now."""
    found = page.tasks.progress(identity.annotator_id)
    values = asdict(found)
    return as_json({**values, "deadline_in_s": seconds_until(page, values.pop("deadline_at"))})


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
