"""Signing in and out, by password, invitation or OpenID provider."""

import logging
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import APIRouter, Form, Request, Response
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import text

from judge.human.errors import Conflict, Invalid, QueueRefusal
from judge.human.page.addresses import client_address
from judge.human.page.limits import Buckets, Limits
from judge.human.page.oidc import Oidc, Pending, ProviderFailed
from judge.human.page.refusals import Refused
from judge.human.page.shell import Page, ThePage, see_other, session_of
from judge.human.people import SignInRefused
from judge.human.types import Identity

_LOG = logging.getLogger(__name__)
T = TypeVar("T")
router = APIRouter()


class SignIns:
    """What tries of a password share: their rates, and how many are hashed at a time."""

    def __init__(self, limits: Limits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._buckets = tuple(Buckets(rate, clock) for rate in (limits.address, limits.name_at_address, limits.name))
        # Hashing has threads of its own: it would otherwise take those that labels are submitted on.
        self._hashing = CapacityLimiter(limits.num_hashing)
        self._num_waiting = 0

    async def attempt(self, address: str, name: str, act: Callable[..., T], *args: Any) -> T:
        """Do what hashes a password; only failures count towards the rates. Raises Refused when there are too many."""
        if self._num_waiting >= self._limits.num_waiting:
            raise Refused(503, "Many people sign in at this moment; please try again.", "busy", 5.0)
        name = name.strip().casefold()[:200]
        self._num_waiting += 1
        try:
            async with self._hashing:
                self._take(address, name)
                made = await run_sync(act, *args)
        finally:
            self._num_waiting -= 1
        self._give_back(address, name)
        return made

    def _take(self, address: str, name: str) -> None:
        for bucket, key in zip(self._buckets, _keys(address, name), strict=True):
            wait_s = bucket.take(key)
            if wait_s:
                message = f"Too many attempts. Please wait {max(1, round(wait_s))} seconds."
                raise Refused(429, message, "too_fast", wait_s)

    def _give_back(self, address: str, name: str) -> None:
        for bucket, key in zip(self._buckets, _keys(address, name), strict=True):
            bucket.give_back(key)


def _keys(address: str, name: str) -> tuple[object, object, object]:
    return address, (address, name), name


@router.get("/healthz")
def healthz(page: ThePage) -> dict[str, str]:
    """200 while the page answers and reaches its database."""
    with page.database.read() as connection:  # tried once: whoever asks for health asks again
        connection.execute(text("SELECT 1"))
    return {"status": "ok"}


@router.get("/sign-in")
async def sign_in_form(request: Request, page: ThePage, next: str = "/") -> Response:
    """The sign-in page."""
    if session_of(request) is not None:
        return see_other(local_path(next))
    return _form(page, request, next_path=local_path(next))


@router.post("/sign-in")
async def sign_in(
    request: Request,
    page: ThePage,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",
) -> Response:
    """Sign in by name and password."""
    sign_ins: SignIns = request.app.state.sign_ins
    address = client_address(page, request)
    try:
        identity = await sign_ins.attempt(address, name, page.accounts.sign_in, name, password)
        return await _welcome(page, request, identity, "password", local_path(next))
    except SignInRefused as error:
        _LOG.warning("sign-in refused for %r from %s", name[:80], address)
        return _form(page, request, name=name, next_path=local_path(next), error=str(error), status=error.status)


@router.post("/sign-out")
def sign_out(request: Request, page: ThePage) -> Response:
    """End the session, on this browser and in the database."""
    token = request.cookies.get(page.cookie)
    if token:
        page.accounts.end_session(token)
    response = see_other("/sign-in")
    response.delete_cookie(page.cookie, path="/", secure=page.is_https, httponly=True, samesite="lax")
    response.headers["clear-site-data"] = '"cache"'
    return response


@router.get("/invitation/{token}")
def invitation_form(request: Request, page: ThePage, token: str) -> Response:
    """What an invitation link opens."""
    return _invitation(page, request, token)


@router.post("/invitation/{token}")
async def accept(
    request: Request,
    page: ThePage,
    token: str,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    again: Annotated[str, Form()] = "",
) -> Response:
    """Use an invitation with a name and a password."""
    if password != again:
        error: QueueRefusal = Invalid("The two passwords differ; please type them again.")
        return await run_in_threadpool(_invitation, page, request, token, name=name, error=error)
    await run_in_threadpool(page.accounts.invitation, token)  # before anything is hashed for a link that is gone
    sign_ins: SignIns = request.app.state.sign_ins
    try:
        address = client_address(page, request)
        identity = await sign_ins.attempt(address, "", page.accounts.accept, token, name, password)
    except (Invalid, Conflict) as refused:
        return await run_in_threadpool(_invitation, page, request, token, name=name, error=refused)
    return await _welcome(page, request, identity, "invitation", "/")


@router.get("/sign-in/oidc")
def begin_oidc(request: Request, page: ThePage, next: str = "/", invitation: str = "") -> Response:
    """Send the browser to the provider; a link and not a form, since form-action holds for redirects, too."""
    oidc = _oidc(request)
    url, pending = oidc.begin(_callback(page, request), next_path=local_path(next), invitation=invitation[:100])
    response = see_other(url)
    _set_cookie(page, response, _pending_cookie(page), pending.packed(), max_age=600)
    return response


@router.get("/sign-in/oidc/callback")
async def finish_oidc(request: Request, page: ThePage, state: str = "", code: str = "", error: str = "") -> Response:
    """Where the provider sends the browser back to."""
    oidc = _oidc(request)
    pending = Pending.unpacked(request.cookies.get(_pending_cookie(page), ""))
    if pending is None or not state or state != pending.state:
        raise Refused(400, "This sign-in was begun elsewhere or too long ago; please begin again.", "state")
    if error or not code:
        raise ProviderFailed("The provider did not sign you in.")

    def act() -> Identity:
        claims = oidc.finish(_callback(page, request), code=code, pending=pending)
        if pending.invitation:
            return page.accounts.accept(pending.invitation, claims.name, subject=claims.subject)
        return page.accounts.by_subject(
            claims.subject, claims.name, may_join=claims.may_join, is_verified=claims.is_verified
        )

    identity = await run_in_threadpool(act)
    response = await _welcome(page, request, identity, "provider", local_path(pending.next))
    response.delete_cookie(_pending_cookie(page), path="/", secure=page.is_https, httponly=True, samesite="lax")
    return response


def local_path(path: str) -> str:
    """The path if it is one of this page, else "/": nobody is sent elsewhere after signing in."""
    is_local = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() and path.isascii()
    return path if is_local and "\\" not in path else "/"


async def _welcome(page: Page, request: Request, identity: Identity, how: str, path: str) -> Response:
    """A session of its own for each sign-in; the one that the browser had ends."""
    former = request.cookies.get(page.cookie)
    if former:
        await run_in_threadpool(page.accounts.end_session, former)
    tokens = await run_in_threadpool(page.accounts.start_session, identity.annotator_id, how=how)
    response = see_other(path)
    _set_cookie(page, response, page.cookie, tokens.token, max_age=None)
    return response


def _set_cookie(page: Page, response: Response, name: str, value: str, *, max_age: int | None) -> None:
    # Lax and not Strict: who follows a link to the page from a chat or a provider is signed in there.
    response.set_cookie(name, value, max_age=max_age, path="/", secure=page.is_https, httponly=True, samesite="lax")


def _form(
    page: Page, request: Request, *, next_path: str, name: str = "", error: str = "", status: int = 200
) -> Response:
    return page.render(
        request,
        "sign_in.html",
        status_code=status,
        next=next_path,
        name=name[:200],
        error=error,
        has_oidc=page.settings.oidc is not None,
    )


def _invitation(
    page: Page, request: Request, token: str, *, name: str = "", error: QueueRefusal | None = None
) -> Response:
    invitation = page.accounts.invitation(token)
    return page.render(
        request,
        "invitation.html",
        status_code=error.status if error else 200,
        invitation=invitation,
        token=token,
        name=name[:200],
        error=str(error) if error else "",
        has_oidc=page.settings.oidc is not None,
    )


def _oidc(request: Request) -> Oidc:
    oidc: Oidc | None = request.app.state.oidc
    if oidc is None:
        raise Refused(404, "This page has no sign-in provider.", "not_found")
    return oidc


def _callback(page: Page, request: Request) -> str:
    return f"{page.origin(request)}/sign-in/oidc/callback"


def _pending_cookie(page: Page) -> str:
    return f"{page.cookie}-oidc"
