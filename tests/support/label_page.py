"""A labelling page over an empty queue, without a server around it, and a clock that tests turn."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from argon2 import PasswordHasher
from fastapi import FastAPI

from judge.human.accounts import Accounts
from judge.human.config import PageConfig
from judge.human.credentials import Passwords
from judge.human.database import Database
from judge.human.page.app import make_app
from judge.human.schema import metadata
from judge.human.types import Role

HOST = "page.test"
PASSWORD = "correct horse"


def quick_passwords() -> Passwords:
    """Argon2 in the least time that it takes."""
    return Passwords(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand."""

    now: float = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def tiny_queue(folder: Path, clock: Callable[[], float]) -> Database:
    database = Database(f"sqlite:///{folder}/queue.sqlite", clock=clock)
    metadata.create_all(database.engine)  # as the migrations do (a test of theirs says so), in a tenth of the time
    return database


@dataclass
class TinyPage:
    """An app, its parts, and browsers for it."""

    app: FastAPI
    database: Database
    clock: Clock
    accounts: Accounts
    scheme: str = "http"
    browsers: list[httpx.AsyncClient] = field(default_factory=list)

    def browser(self, *, address: str = "10.0.0.9", host: str = HOST) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app, client=(address, 4000))
        browser = httpx.AsyncClient(transport=transport, base_url=f"{self.scheme}://{host}")
        self.browsers.append(browser)
        return browser

    async def signed_in(self, name: str = "Ana", role: Role = "annotator", **options: Any) -> httpx.AsyncClient:
        """A browser with a session, its CSRF token in a header of every request."""
        self.accounts.add(name, role, PASSWORD)
        browser = self.browser(**options)
        answer = await browser.post("/sign-in", data={"name": name, "password": PASSWORD})
        assert answer.status_code == 303, answer.text
        browser.headers["x-csrf-token"] = await csrf_of(browser)
        return browser


async def csrf_of(browser: httpx.AsyncClient) -> str:
    """The token that pages carry for scripts."""
    found = re.search(r'<meta name="csrf" content="([^"]+)">', (await browser.get("/no-such-page")).text)
    assert found is not None
    return found[1]


def tiny_page(folder: Path, settings: PageConfig | None = None, **options: Any) -> TinyPage:
    clock = Clock()
    database = tiny_queue(folder, clock)
    settings = settings or PageConfig()
    app = make_app(database, settings, clock=clock, passwords=quick_passwords(), **options)
    scheme = "https" if (settings.public_url or "").startswith("https") else "http"
    return TinyPage(app=app, database=database, clock=clock, accounts=app.state.page.accounts, scheme=scheme)
