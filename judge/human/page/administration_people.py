"""The administration's pages about people: annotators and what is known of their work, invitations, the audit log."""

import json
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, HTTPException, Query, Request
from fastapi.responses import Response

from judge.human.oversight import AnnotatorRow, Event, annotator_rows, events_of
from judge.human.page.shell import Administrator, Page, ThePage, see_other
from judge.human.trust import quarantine
from judge.human.types import Role

_MAX_EVENTS = 6_400
FREQUENT = ("label", "late_label", "undo", "signed_in")  # of the audit log: they would hide everything else
_SURE = 0.95
_VERY_SURE = 0.99  # for a lean to one side: one annotator in a hundred is blamed wrongly

router = APIRouter()


@router.get("/annotators")
def annotators(request: Request, page: ThePage, _: Administrator) -> Response:
    """Everybody with an account, and how they label."""
    return _annotators(request, page)


@router.post("/annotators/{annotator_id}/{deed}")
def change(
    request: Request,
    page: ThePage,
    administrator: Administrator,
    annotator_id: int,
    deed: Literal["quarantine", "lift", "disable", "enable", "annotator", "administrator", "password"],
) -> Response:
    """Change an account; a link for a new password is shown once, on the page that answers."""
    person = next((known for known in page.accounts.people() if known.annotator_id == annotator_id), None)
    if person is None:
        raise HTTPException(404)
    match deed:
        case "quarantine" | "lift":
            quarantine(page.database, annotator_id, deed == "quarantine", administrator.name)
        case "disable" | "enable":
            page.accounts.disable(annotator_id, deed == "disable", by=administrator)
        case "annotator" | "administrator":
            page.accounts.set_role(annotator_id, deed, by=administrator)
        case "password":
            token = page.accounts.reset(annotator_id, by=administrator)
            return _annotators(request, page, link=_link(page, request, token), link_for=person.name)
    return see_other("/admin/annotators")


@router.get("/invitations")
def invitations(request: Request, page: ThePage, _: Administrator) -> Response:
    """Who was invited, and what became of it."""
    return page.render(request, "admin_invitations.html", invitations=page.accounts.invitations(), link="")


@router.post("/invitations")
def invite(
    request: Request,
    page: ThePage,
    administrator: Administrator,
    role: Annotated[Role, Form()],
    days: Annotated[float, Form(ge=1, le=90)],
    note: Annotated[str, Form(max_length=200)] = "",
) -> Response:
    """Make a link; it stands on the page that answers, and nowhere else."""
    token = page.accounts.invite(role, note.strip(), by=administrator, days=days)
    link = _link(page, request, token)
    return page.render(request, "admin_invitations.html", invitations=page.accounts.invitations(), link=link)


@router.post("/invitations/{invitation_id}/revoke")
def revoke(page: ThePage, administrator: Administrator, invitation_id: int) -> Response:
    """End an invitation that nobody has used."""
    page.accounts.revoke(invitation_id, by=administrator)
    return see_other("/admin/invitations")


@router.get("/events")
def log(
    request: Request,
    page: ThePage,
    _: Administrator,
    num: Annotated[int, Query(ge=1, le=_MAX_EVENTS)] = 100,
    every: bool = False,
) -> Response:
    """The last `num` entries of the audit log, newest first; every: also each label and each sign-in."""
    found = events_of(page.database, None, num + 1, leaving_out=() if every else FREQUENT)
    more = min(2 * num, _MAX_EVENTS) if len(found) > num and num < _MAX_EVENTS else None
    return page.render(
        request, "admin_events.html", events=[shown_event(event) for event in found[:num]], more=more, every=every
    )


def shown_event(event: Event) -> dict[str, Any]:
    """An event as the templates show it."""
    detail = [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in event.detail.items()
        if value is not None
    ]
    about = {"at": event.at, "actor": event.actor, "action": event.action}
    return about | {"round_row": event.round_row, "task_id": event.task_id, "detail": detail}


def _annotators(request: Request, page: Page, *, link: str = "", link_for: str = "") -> Response:
    people = {person.annotator_id: person for person in page.accounts.people()}
    shown = [
        _person(row) | {"has_password": people[row.annotator_id].has_password}
        for row in annotator_rows(page.database)
        if row.annotator_id in people
    ]
    return page.render(request, "admin_annotators.html", people=shown, link=link, link_for=link_for)


def _person(row: AnnotatorRow) -> dict[str, Any]:
    low, high = _interval(row.gold_right, row.gold_answered, _SURE)
    num_left = round((row.left_share or 0.0) * row.num_sided)
    left_low, left_high = _interval(num_left, row.num_sided, _VERY_SURE)
    return vars(row) | {
        "gold_low": low,
        "gold_high": high,
        "leans": "left" if left_low > 0.5 else "right" if left_high < 0.5 else "",
    }


def _interval(num_hits: int, num_all: int, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share; all of [0, 1] where nothing is known."""
    if not num_all:
        return 0.0, 1.0
    from scipy.stats import binomtest

    found = binomtest(num_hits, num_all).proportion_ci(confidence, method="wilson")
    return float(found.low), float(found.high)


def _link(page: Page, request: Request, token: str) -> str:
    return f"{page.origin(request)}/invitation/{token}"
