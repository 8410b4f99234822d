"""What every router of the labelling page builds on.

    from judge.human.page.shell import Administrator, SignedIn, ThePage

    router = APIRouter()

    @router.get("/rounds")
    def rounds(request: Request, page: ThePage, identity: SignedIn) -> Response:
        return page.render(request, "rounds.html", rounds=page.rounds.all())

    @router.post("/rounds/{row_id}/seal")
    def seal(row_id: int, page: ThePage, administrator: Administrator) -> Response:
        page.rounds.seal(row_id, administrator.name)
        return see_other("/rounds")

- The guard in front of all routes (security.py) refuses requests without a session, unsafe requests without the right
  CSRF token and Origin, and bodies that are too large; routes need no check of their own for these.
- CSRF token: a hidden field `csrf` in each form (`{{ csrf_field(csrf) }}` makes it), or the header
  X-CSRF-Token, which scripts read from `<meta name="csrf">`. Forms are urlencoded; multipart is refused.
- Routes that touch the database are plain `def`, so that they run in the thread pool.
- Raise a QueueRefusal (errors.py) or fastapi.HTTPException: it becomes a page, or for paths below /api/ (and whoever
  accepts application/json) {"error": message, "kind": "round_sealed", "retry_after_s": only for 429}.
- Templates extend base.html: blocks title, head, main, scripts, and main_class (`narrow`, `wide` or `full`). They see
  identity (None without a session), csrf, theme, path, page_keys, now, and the filters `when` (a <time> element),
  `duration` (seconds in words) and `share` (a fraction in per cent). Static files: `{{ asset("label.js") }}`.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment
from markupsafe import Markup, escape

from judge.human.accounts import Accounts
from judge.human.config import PageConfig
from judge.human.database import Database
from judge.human.people import Session
from judge.human.rounds import Rounds
from judge.human.tasks import Tasks
from judge.human.types import Identity

THEMES = ("light", "dark")
_SESSION = "rondo.session"  # where the guard leaves the session in the ASGI scope


@dataclass(frozen=True, kw_only=True)
class Page:
    """Everything that routes use; one for each app."""

    database: Database
    settings: PageConfig
    accounts: Accounts
    rounds: Rounds
    tasks: Tasks
    templates: Environment
    cookie: str
    clock: Callable[[], float] = time.time

    @property
    def is_https(self) -> bool:
        """Browsers come by https, as public_url says: cookies are then Secure."""
        return (self.settings.public_url or "").startswith("https://")

    def origin(self, request: Request) -> str:
        """Scheme and host as browsers see them, without a slash at the end."""
        return self.settings.public_url or f"http://{request.headers.get('host', '')}"

    def render(
        self,
        request: Request,
        template: str,
        *,
        status_code: int = 200,
        headers: Mapping[str, str] | None = None,
        **values: Any,
    ) -> HTMLResponse:
        """Fill a template in; what every template sees stands in this module's docstring."""
        session = session_of(request)
        theme = request.cookies.get("rondo-theme", "")
        common = {
            "identity": session.identity if session else None,
            "csrf": session.csrf if session else "",
            "theme": theme if theme in THEMES else "",
            "path": request.url.path,
            "page_keys": self.settings.keys,
            "now": self.clock(),
        }
        html = self.templates.get_template(template).render({**common, **values})
        return HTMLResponse(html.encode("utf-8", "replace"), status_code=status_code, headers=dict(headers or {}))


def page_of(request: Request) -> Page:
    """The page that answers this request."""
    page: Page = request.app.state.page
    return page


def session_of(request: Request) -> Session | None:
    """Whose request it is, as the guard found out; None without a session."""
    found: Session | None = request.scope.get(_SESSION)
    return found


def keep_session(request: Request, session: Session) -> None:
    """Leave the session where session_of finds it."""
    request.scope[_SESSION] = session


async def _the_page(request: Request) -> Page:
    return page_of(request)


async def signed_in(request: Request) -> Identity:
    """Who asks; 401 where nobody is signed in, which the guard has seen to already."""
    session = session_of(request)
    if session is None:
        raise HTTPException(401, "Please sign in first.")
    return session.identity


async def administrator(request: Request) -> Identity:
    """Who asks, an administrator; 403 for everybody else."""
    identity = await signed_in(request)
    if identity.role != "administrator":
        raise HTTPException(403, "This part of the page is for administrators.")
    return identity


# Async, though they wait for nothing: FastAPI would send plain functions to the thread pool.
ThePage = Annotated[Page, Depends(_the_page)]
SignedIn = Annotated[Identity, Depends(signed_in)]
Administrator = Annotated[Identity, Depends(administrator)]


def wants_json(request: Request) -> bool:
    """Whether a refusal is read by a script rather than by a person."""
    accept = request.headers.get("accept", "")
    return request.url.path.startswith("/api/") or ("application/json" in accept and "text/html" not in accept)


def see_other(path: str) -> RedirectResponse:
    """Send the browser to a path of this page with GET."""
    return RedirectResponse(path, status_code=303)


def when(epoch_s: float | None) -> Markup:
    """A <time> element in UTC, to the minute."""
    if epoch_s is None:
        return Markup("–")
    at = time.gmtime(epoch_s)
    iso, shown = time.strftime("%Y-%m-%dT%H:%M:%SZ", at), time.strftime("%Y-%m-%d %H:%M UTC", at)
    return Markup('<time datetime="{}">{}</time>').format(iso, shown)


def duration(seconds: float | None) -> str:
    """Seconds in words of at most two units: 2 d 3 h, 4 min 5 s, 1.2 s."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    left, parts = round(seconds), list[str]()
    for name, size in (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts:
            parts.append(f"{count} {name}" if count else "")
    return " ".join(part for part in parts[:2] if part)


def share(fraction: float | None) -> str:
    """A fraction in per cent, without decimals."""
    return "–" if fraction is None else f"{100 * fraction:.0f} %"


def csrf_field(csrf: str) -> Markup:
    """The hidden field of a form."""
    return Markup('<input type="hidden" name="csrf" value="{}">').format(escape(csrf))
