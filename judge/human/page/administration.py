"""The administration's pages: rounds, disagreements, exports. People and the audit log are in administration_people.

All routes need an administrator. Reading goes through `oversight`; whatever is changed is in the audit log.
"""

import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Request
from fastapi.responses import FileResponse, Response
from markupsafe import Markup
from sqlalchemy import select
from starlette.background import BackgroundTask

from judge.human.agreement import agreement
from judge.human.formats import Format, export_round
from judge.human.formats_table import What
from judge.human.oversight import Decision, Disagreement, adjudicate, disagreements, events_of, throughput
from judge.human.page import administration_people
from judge.human.page.administration_people import FREQUENT, shown_event
from judge.human.page.charts import bars, matrix
from judge.human.page.rendering import render
from judge.human.page.shell import Administrator, Page, ThePage, see_other
from judge.human.schema import tasks
from judge.human.types import GivenLabel, RoundView
from rollout.errors import UsageError

_MINUTE_S, _HOUR_S = 60.0, 3_600.0
_MAX_SHOWN = 200  # disagreements on one page
_EXCERPT = 160
_OUTCOMES = {"a": "A is better", "b": "B is better", "tie": "Equally good", "both_bad": "Both are bad"}
_SAID = _OUTCOMES | {"skip": "Skipped", "abstain": "Given up"}
_SEALED_BY = {"quorum": "its quorum", "deadline": "its deadline", "exhausted": "the last pair to settle"}
_TABLES: tuple[What, ...] = ("labels", "pairs")
_EXPORTS: Mapping[str, tuple[What, Format, str]] = {
    **{f"{what}.jsonl": (what, "jsonl", f"{what.capitalize()}, JSONL") for what in _TABLES},
    **{f"{what}.parquet": (what, "parquet", f"{what.capitalize()}, Parquet") for what in _TABLES},
}

router = APIRouter(prefix="/admin")
router.include_router(administration_people.router)


@router.get("")
def all_rounds(request: Request, page: ThePage, _: Administrator) -> Response:
    """Every round, the open ones first."""
    found = sorted(page.rounds.all(), key=lambda view: (view.state == "sealed", -view.row_id))
    waiting = [view for view in found if view.state != "sealed"]
    return page.render(
        request,
        "admin_rounds.html",
        rounds=found,
        num_open=len(waiting),
        num_waiting=sum(_num_waiting(view) for view in waiting),
        num_labels=sum(view.num_labels for view in found),
        next_deadline=min((view.deadline_at for view in waiting if view.deadline_at is not None), default=None),
    )


@router.get("/rounds/{row_id}")
def one_round(request: Request, page: ThePage, _: Administrator, row_id: int) -> Response:
    """How a round stands: figures, throughput, agreement, what can be done, and its part of the audit log."""
    view, db = _view(page, row_id), page.database
    now = page.clock()
    counts = [count for _, count in throughput(db, row_id)]
    found = agreement(db, row_id)
    per_s = sum(counts) / (_MINUTE_S * len(counts))
    left = _num_waiting(view)
    is_near = view.state == "collecting" and left and per_s > 0
    return page.render(
        request,
        "admin_round.html",
        round=view,
        num_waiting=left,
        chart=bars(counts, _MINUTE_S),
        finished_at=now + left * view.rules.overlap / per_s if is_near else None,
        alpha=found.alpha,
        num_double=found.num_units,
        sealed_by=_SEALED_BY.get(view.sealed_by, view.sealed_by),
        matrix=matrix(found, {person.annotator_id: person.name for person in page.accounts.people()}),
        num_disagreements=len(disagreements(db, row_id)),
        exports={name: label for name, (_, _, label) in _EXPORTS.items()},
        events=[shown_event(event) for event in events_of(db, row_id, 20, leaving_out=FREQUENT)],
    )


@router.get("/rounds/{row_id}/seal")
def ask_to_seal(request: Request, page: ThePage, _: Administrator, row_id: int) -> Response:
    """What sealing a round means, before it is done."""
    view = _view(page, row_id)
    if view.state == "sealed":
        return see_other(f"/admin/rounds/{row_id}")
    return page.render(request, "admin_seal.html", round=view, num_waiting=_num_waiting(view))


@router.post("/rounds/{row_id}/seal")
def seal(page: ThePage, administrator: Administrator, row_id: int) -> Response:
    """Seal a round now."""
    _view(page, row_id)
    page.rounds.seal(row_id, administrator.name)
    return see_other(f"/admin/rounds/{row_id}")


@router.post("/rounds/{row_id}/deadline")
def extend(
    page: ThePage, administrator: Administrator, row_id: int, hours: Annotated[float, Form(ge=1, le=720)]
) -> Response:
    """Move the deadline on, from where it is, or from now where it has passed."""
    view = _view(page, row_id)
    start = max(page.clock(), view.deadline_at or 0.0)
    page.rounds.extend(row_id, start + hours * _HOUR_S, administrator.name)
    return see_other(f"/admin/rounds/{row_id}")


@router.get("/rounds/{row_id}/export/{name}")
def export(page: ThePage, administrator: Administrator, row_id: int, name: str) -> Response:
    """A table of the round as a file; other formats are made by the command line."""
    view = _view(page, row_id)
    if name not in _EXPORTS:
        raise HTTPException(404)
    what, format, _ = _EXPORTS[name]
    folder = tempfile.TemporaryDirectory(prefix="rondo-export-")
    path = Path(folder.name) / name
    export_round(page.database, row_id, path, format, what=what)
    shown = f"{view.key.run_id[:12]}-{view.key.round_id:04d}-{view.key.purpose}-{name}"
    kind = "application/octet-stream"
    return FileResponse(path, media_type=kind, filename=shown, background=BackgroundTask(folder.cleanup))


@router.get("/rounds/{row_id}/disagreements")
def list_disagreements(request: Request, page: ThePage, _: Administrator, row_id: int) -> Response:
    """The pairs on which annotators disagree."""
    view = _view(page, row_id)
    found = disagreements(page.database, row_id)
    rows = [
        {
            "task_id": row.task_id,
            "excerpt": _excerpt(row),
            "votes": [(_SAID[label], count) for label, count in sorted(_votes(row).items())],
            "outcome": _outcome(row),
        }
        for row in found[:_MAX_SHOWN]
    ]
    return page.render(request, "admin_disagreements.html", round=view, rows=rows, num_disagreements=len(found))


@router.get("/tasks/{task_id}")
def one_task(request: Request, page: ThePage, _: Administrator, task_id: str) -> Response:
    """A pair with what people said about it, by name, and the way to decide it."""
    row_id, all_found = _disagreements_with(page, task_id)
    found = next(row for row in all_found if row.task_id == task_id)
    view = _view(page, row_id)
    votes = _votes(found)
    return page.render(
        request,
        "admin_task.html",
        round=view,
        task_id=task_id,
        num_left=sum(_is_undecided(row) for row in all_found),
        turns=[_shown(message["content"], role=message["role"]) for message in found.messages],
        answers=[
            _shown(text, name=f"Answer {name.upper()}", num_votes=votes[name])
            for name, text in (("a", found.text_a), ("b", found.text_b))
        ],
        labels=[_label(view, name, given) for name, given in found.labels],
        is_closed=view.state == "sealed",
        is_decided=found.adjudicated_by is not None,
        outcome=_outcome(found),
        outcomes=_OUTCOMES,
        next_task=_following(all_found, task_id),
    )


@router.post("/tasks/{task_id}/outcome")
def decide(
    page: ThePage, administrator: Administrator, task_id: str, outcome: Annotated[Decision | Literal["votes"], Form()]
) -> Response:
    """Decide a pair, whatever the votes are, and go on to the next; `votes` takes a decision back."""
    row_id, found = _disagreements_with(page, task_id)
    adjudicate(page.database, task_id, None if outcome == "votes" else outcome, administrator.name)
    following = None if outcome == "votes" else _following(found, task_id)
    return see_other(f"/admin/tasks/{following}" if following else f"/admin/rounds/{row_id}/disagreements")


def _num_waiting(view: RoundView) -> int:
    return view.num_tasks - view.num_resolved - view.num_given_up


def _view(page: Page, row_id: int) -> RoundView:
    try:
        return page.rounds.view(row_id)
    except UsageError as error:
        raise HTTPException(404) from error


def _disagreements_with(page: Page, task_id: str) -> tuple[int, list[Disagreement]]:
    """The round of a pair and all of its disagreements, the pair among them; 404 where it is none."""
    with page.database.read() as connection:
        row_id = connection.execute(select(tasks.c.round_row).where(tasks.c.public_id == task_id)).scalar()
    found = [] if row_id is None else disagreements(page.database, row_id)
    if row_id is None or not any(row.task_id == task_id for row in found):
        raise HTTPException(404)
    return row_id, found


def _is_undecided(row: Disagreement) -> bool:
    return row.outcome in {None, "abstain"}


def _following(found: list[Disagreement], task_id: str) -> str | None:
    """The next pair without an outcome, after this one and then from the start."""
    here = next(number for number, row in enumerate(found) if row.task_id == task_id)
    others = (row.task_id for row in found[here + 1 :] + found[:here] if _is_undecided(row))
    return next(others, None)


def _votes(row: Disagreement) -> Counter[str]:
    return Counter(given.label for _, given in row.labels)


def _outcome(row: Disagreement) -> str:
    if row.outcome is None:
        return "more labels are asked for"
    return _SAID[row.outcome] + (f", decided by {row.adjudicated_by}" if row.adjudicated_by else "")


def _excerpt(row: Disagreement) -> str:
    text = " ".join(str(row.messages[-1]["content"] if row.messages else "").split())
    return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}…"


def _shown(text: str, **about: Any) -> dict[str, Any]:
    rendered = render(text)
    return {"html": Markup(rendered.html), "is_cut": rendered.is_cut, "num_chars": rendered.num_chars, **about}


def _label(view: RoundView, name: str, given: GivenLabel) -> dict[str, Any]:
    """One row of what people said: by name, and by the pair's own a and b."""
    said = _SAID[given.label] + (f", {given.strength}" if given.strength else "")
    questions = dict(view.rules.criteria)
    answers = [
        (questions.get(key, key), choice if choice == "tie" else choice.upper())
        for key, choice in given.criteria.items()
    ]
    return {
        "annotator": name,
        "said": said,
        "on_left": "B" if given.swapped else "A",
        "seconds": given.seconds,
        "note": given.reason or given.comment,
        "answers": answers,
    }
