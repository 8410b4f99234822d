"""The guard in front of every route: who asks, from where, how much, how often; and the headers of every answer.

Refusing is the default: a path that is not in OPEN or below OPEN_BELOW needs a session, also one that does not exist.
"""

import hmac
import logging
from collections.abc import MutableMapping
from ipaddress import ip_network
from typing import Any
from urllib.parse import parse_qs, quote

from anyio import fail_after
from anyio.to_thread import run_sync
from fastapi import Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.exc import InterfaceError
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from judge.human.errors import QueueRefusal
from judge.human.page import quick
from judge.human.page.addresses import is_in
from judge.human.page.limits import Buckets, Limits
from judge.human.page.refusals import Refused, of_queue, refusal
from judge.human.page.shell import Page, keep_session, wants_json
from judge.human.people import Session
from rollout.errors import InfraError

_LOG = logging.getLogger(__name__)
# /metrics has a bearer token of its own.
OPEN = frozenset({"/sign-in", "/sign-in/oidc", "/sign-in/oidc/callback", "/healthz", "/metrics"})
OPEN_BELOW = ("/invitation/", "/static/")
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",  # under no-referrer browsers send `Origin: null` with our own forms
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}
HEADERS = tuple((name.encode(), value.encode()) for name, value in _HEADERS.items())
_NO_STORE = (b"cache-control", b"no-store")
UNREACHABLE = (InfraError, InterfaceError)


class Guard:
    """ASGI middleware; see this module's docstring."""

    def __init__(self, app: ASGIApp, *, page: Page, limits: Limits) -> None:
        self._app = app
        self._page = page
        self._limits = limits
        self._people = Buckets(limits.person, page.clock)
        self._proxies = [ip_network(network) for network in page.settings.trusted_proxies]
        self._header = (page.settings.trusted_header or "").lower().encode("latin-1")
        self._csrf_key = page.database.secret("csrf") if self._header else b""
        self._lanes = quick.lanes()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or hand on what may go further."""
        if scope["type"] == "lifespan":
            return await self._app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                _add_headers(message)
            await send(message)

        request = Request(scope, receive)
        try:
            if deed := quick.find(scope):
                response = await self._at_once(request, deed)
                return await response(scope, receive, send_guarded)
            receive = await self._admit(request, receive)
            return await self._app(scope, receive, send_guarded)
        except Refused as error:
            refused = error
        except QueueRefusal as error:
            refused = of_queue(error)
        except UNREACHABLE as error:
            if started:
                raise
            _LOG.warning("%s %s: the database is out of reach: %s", scope["method"], scope["path"], error)
            message = "The queue is out of reach for a moment. Nothing is lost; please try again."
            refused = Refused(503, message, "unavailable", 3.0)
        except Exception:
            if started:
                raise
            _LOG.exception("%s %s failed", scope["method"], scope["path"])
            refused = Refused(500, "Something went wrong on our side. It has been logged; please try again.", "failed")
        return await self._answer(request, refused)(scope, receive, send_guarded)

    def _answer(self, request: Request, refused: Refused) -> Response:
        if refused.status == 401 and not wants_json(request):
            path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
            back = f"?next={quote(path, safe='/')}" if request.method == "GET" and path != "/" else ""
            return RedirectResponse(f"/sign-in{back}", status_code=303)
        return refusal(self._page, request, refused)

    async def _admit(self, request: Request, receive: Receive) -> Receive:
        """Refuse, or return what the rest of the app reads the body from."""
        path = request.url.path
        if path.startswith("/static/") or path == "/healthz":
            if request.method not in SAFE:
                raise Refused(405, "This cannot be written to.", "method")
            return receive
        body = await self._body(request)
        if request.method not in SAFE:
            receive = _replay(body, receive)
        session = await run_sync(self._session, request) if self._may_have_session(request) else None
        self._check(request, session, body)
        return receive

    async def _at_once(self, request: Request, deed: quick.Deed) -> Response:
        """One way to a thread for all that is done there, the session's check and the deed; submissions have their own.

        On that way the interpreter changes hands, and it does so the more slowly the busier the page is.
        """
        body = await self._body(request)

        def act() -> Response:
            session = self._session(request)
            self._check(request, session, body)
            assert session is not None, "no path of a quick deed is open"
            return deed.act(self._page, session.identity, request, body)

        return await run_sync(act, limiter=self._lanes[deed.lane])

    async def _body(self, request: Request) -> bytes:
        if request.method in SAFE:
            return b""
        self._check_origin(request)
        return await self._read(request)

    def _check(self, request: Request, session: Session | None, body: bytes) -> None:
        """Refuse who may not, who sends what another page made, and who asks too often; else keep the session."""
        is_open = request.url.path in OPEN or request.url.path.startswith(OPEN_BELOW)
        if session is None:
            if not is_open:
                raise Refused(401, "Please sign in first.", "signed_out")
            return
        keep_session(request, session)
        if request.method not in SAFE and not is_open:
            sent = request.headers.get("x-csrf-token") or _field(request, body, "csrf")
            if not hmac.compare_digest(sent.encode("utf-8", "replace"), session.csrf.encode()):
                message = "This form is from another session. Go back, reload the page and try again."
                raise Refused(403, message, "csrf")
        wait_s = self._people.take(session.identity.annotator_id)
        if wait_s:
            raise Refused(429, "That is too many requests at once; please wait a moment.", "too_fast", wait_s)

    def _check_origin(self, request: Request) -> None:
        """Refuse what another site makes a browser send; programs send neither header."""
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        if site not in {None, "same-origin"} or origin not in {None, self._page.origin(request)}:
            raise Refused(403, "This request comes from another site.", "cross_site")

    async def _read(self, request: Request) -> bytes:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        declared = request.headers.get("content-length", "0")
        parts, size_bytes = [], 0
        too_large = Refused(413, f"A request has at most {self._limits.size_bytes:,} bytes.", "too_large")
        if not declared.isdecimal() or int(declared) > self._limits.size_bytes:
            raise too_large
        try:
            with fail_after(self._limits.body_s):
                async for part in request.stream():
                    size_bytes += len(part)
                    if size_bytes > self._limits.size_bytes:
                        raise too_large
                    parts.append(part)
        except TimeoutError:
            raise Refused(408, "The request took too long to arrive.", "timeout") from None
        if size_bytes and kind not in {"application/json", "application/x-www-form-urlencoded"}:
            raise Refused(415, "Requests are forms or JSON.", "content_type")
        return b"".join(parts)

    def _may_have_session(self, request: Request) -> bool:
        return bool(self._header) or self._page.cookie in request.cookies

    def _session(self, request: Request) -> Session | None:
        """Whose request it is; asks the database."""
        peer = request.client.host if request.client else ""
        if self._header and is_in(peer, self._proxies):
            values = [value for name, value in request.scope["headers"] if name == self._header]
            if len(values) > 1:
                raise Refused(400, "The proxy names two people.", "header")
            if values and values[0].strip():
                return self._by_header(values[0].decode("utf-8", "replace"))
        token = request.cookies.get(self._page.cookie)
        return self._page.accounts.session(token) if token else None

    def _by_header(self, name: str) -> Session | None:
        """A proxy's word is each request's own session; its CSRF token belongs to the account."""
        identity = self._page.accounts.by_header(name)
        if identity is None:
            return None
        csrf = hmac.new(self._csrf_key, str(identity.annotator_id).encode(), "sha256").hexdigest()
        return Session(identity=identity, csrf=csrf)


def _field(request: Request, body: bytes, name: str) -> str:
    if not request.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return ""
    try:
        return parse_qs(body.decode("ascii", "replace"), max_num_fields=200).get(name, [""])[0]
    except ValueError:
        raise Refused(413, "The form has too many fields.", "too_large") from None


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that hands out a body that has been read already, then goes on with the connection."""
    left: list[MutableMapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay


def _add_headers(message: Message) -> None:
    headers = message["headers"] = list(message.get("headers", ()))
    have = {name.lower() for name, _ in headers}
    headers.extend(pair for pair in (*HEADERS, _NO_STORE) if pair[0] not in have)
