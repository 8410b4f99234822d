"""The labelling page as one ASGI application."""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from anyio.to_thread import current_default_thread_limiter, run_sync
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.staticfiles import StaticFiles
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.types import Scope

from judge.human.accounts import Accounts
from judge.human.config import PageConfig
from judge.human.credentials import Passwords
from judge.human.database import Database
from judge.human.errors import QueueRefusal
from judge.human.page import administration, labelling, metrics, shell, sign_in
from judge.human.page.limits import Limits
from judge.human.page.oidc import Oidc
from judge.human.page.refusals import Refused, of_body, of_queue, refusal
from judge.human.page.sealing import Repeated
from judge.human.page.security import Guard
from judge.human.page.shell import Page, page_of
from judge.human.rounds import Rounds
from judge.human.tasks import Tasks
from judge.human.webhook import tell

# Requests wait for their turn before a thread rather than within one: threads that all want the interpreter hold up
# those that hold a lock in the database.
_NUM_THREADS = 4
_STATIC = Path(__file__).parent / "static"
_MESSAGES = {404: "There is no such page.", 405: "This page does not do that."}


def make_app(
    database: Database,
    settings: PageConfig,
    *,
    clock: Callable[[], float] = time.time,
    limits: Limits | None = None,
    passwords: Passwords | None = None,
) -> FastAPI:
    """The page over a queue: nothing but sign-in, invitations, health and static files without a session.

    While it runs (its lifespan) rounds are sealed at their deadlines and webhooks told. Raises UsageError where the
    settings ask for a provider whose secret is not in the environment.
    """
    limits = limits or Limits()
    page = _page(database, settings, clock, passwords)
    app = FastAPI(title="Rondo", docs_url=None, redoc_url=None, openapi_url=None, lifespan=_lifespan)
    app.state.page = page
    app.state.sign_ins = sign_in.SignIns(limits, clock)
    app.state.oidc = Oidc(settings.oidc, clock=clock) if settings.oidc else None
    app.mount("/static", Static(directory=_STATIC))
    for module in (sign_in, labelling, administration, metrics):
        app.include_router(module.router)
    app.add_exception_handler(QueueRefusal, _refused)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(RequestValidationError, _refused)
    app.add_middleware(Guard, page=page, limits=limits)
    metrics.install(app, database)
    return app


class Static(StaticFiles):
    """Files whose address changes with their contents may be kept for good; others are asked for again."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """See StaticFiles."""
        response = await super().get_response(path, scope)
        kept = b"v=" in scope.get("query_string", b"") and response.status_code in {200, 304}
        response.headers["cache-control"] = "public, max-age=31536000, immutable" if kept else "no-cache"
        return response


def _page(database: Database, settings: PageConfig, clock: Callable[[], float], passwords: Passwords | None) -> Page:
    # Browsers share cookies among the ports of a host, so each queue has a name of its own.
    own = hashlib.sha256(database.secret("cookie")).hexdigest()[:8]
    is_https = (settings.public_url or "").startswith("https://")
    return Page(
        database=database,
        settings=settings,
        accounts=Accounts(database, session_s=3600 * settings.session_hours, passwords=passwords),
        rounds=Rounds(database),
        tasks=Tasks(database),
        templates=_templates(),
        cookie=f"{'__Host-' if is_https else ''}rondo-{own}",
        clock=clock,
    )


def _templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("judge.human.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    digests = {file.name: hashlib.sha256(file.read_bytes()).hexdigest()[:12] for file in _STATIC.iterdir()}
    environment.globals["asset"] = _addresses(digests)
    environment.globals["csrf_field"] = shell.csrf_field
    environment.filters |= {"when": shell.when, "duration": shell.duration, "share": shell.share}
    return environment


def _addresses(digests: Mapping[str, str]) -> Callable[[str], str]:
    def asset(name: str) -> str:
        return f"/static/{name}?v={digests[name]}"

    return asset


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    page: Page = app.state.page
    current_default_thread_limiter().total_tokens = _NUM_THREADS
    with httpx.Client(timeout=10.0) as client:
        threads = (
            Repeated("sealing rounds", page.rounds.seal_due),
            Repeated("telling the webhook", lambda: tell(page.rounds, client), interval_s=2.0),
        )
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            for thread in threads:
                await run_sync(thread.stop)


async def _refused(request: Request, error: Exception) -> Response:
    """What a route raises on purpose, as JSON or as a page."""
    if isinstance(error, QueueRefusal):
        refused = of_queue(error)
    elif isinstance(error, Refused):
        refused = error
    elif isinstance(error, HTTPException):
        detail = _MESSAGES.get(error.status_code, error.detail)
        refused = Refused(error.status_code, str(detail), "refused")
    else:
        refused = of_body(error.errors() if isinstance(error, RequestValidationError) else [])
    return refusal(page_of(request), request, refused)
