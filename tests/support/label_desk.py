"""A labelling page that is really served, over a queue in a folder, and a real browser in front of it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page

from judge.human.accounts import Accounts
from judge.human.config import PageConfig
from judge.human.database import Database
from judge.human.page.serve import LabelServer
from judge.human.rounds import Rounds
from judge.human.types import NewTask, Role, RoundKey, Rules
from tests.support.label_page import PASSWORD, quick_passwords

CHROMIUM = Path("/usr/bin/chromium")
OUTPUT = Path(os.environ.get("RONDO_TEST_OUTPUT") or Path(__file__).parents[1] / "output")
RUN_NAME = "secret-model-7b-dpo"


def open_queue(folder: Path) -> Database:
    """A new queue on SQLite."""
    database = Database(f"sqlite:///{folder / 'queue.sqlite'}")
    database.upgrade()
    return database


def open_round(database: Database, tasks: Sequence[NewTask], round_id: int = 7, **rules: Any) -> int:
    """A filled round whose rules do not slow tests down; its row."""
    rounds = Rounds(database)
    chosen = Rules(**{"double_share": 0.0, "min_dwell_s": 0.0, "labels_per_minute": 10_000, **rules})
    key = RoundKey(run_id="run-4f1d0c", round_id=round_id)
    view = rounds.open(key, RUN_NAME, chosen, num_chunks=1)
    rounds.submit_chunk(view.row_id, 0, tasks)
    return view.row_id


def add_person(database: Database, name: str = "ada", role: Role = "annotator") -> int:
    """An account with PASSWORD; its id."""
    return Accounts(database, passwords=quick_passwords()).add(name, role, PASSWORD).annotator_id


@contextmanager
def served(database: Database, **settings: Any) -> Iterator[str]:
    """The page's address while it is served."""
    server = LabelServer(database, PageConfig(**settings), passwords=quick_passwords())
    try:
        yield server.start()
    finally:
        server.stop()


class Visit:
    """A browser's window on the page, and what went wrong in it."""

    def __init__(self, browser: Browser, address: str, *, width: int = 1280, height: int = 800, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.address = address
        self.page: Page = self.context.new_page()
        self.problems: list[str] = []
        self.requested: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        self.page.on("request", lambda request: self.requested.append(request.url))

    def sign_in(self, name: str = "ada") -> "Visit":
        """Through the form, with the keyboard."""
        self.page.goto(f"{self.address}/sign-in")
        self.page.get_by_label("Name").focus()
        for keys in (name, "Tab", PASSWORD, "Enter"):
            self.page.keyboard.press(keys) if keys in {"Tab", "Enter"} else self.page.keyboard.type(keys)
        self.page.wait_for_url(f"{self.address}/")
        return self

    def desk(self) -> "Visit":
        """At the labelling page, a pair on the desk and the next one fetched ahead."""
        with self.page.expect_response(lambda response: "/api/next" in response.url):
            self.page.goto(f"{self.address}/label")
        self.page.locator(".pair, .empty-stage").wait_for()
        return self

    def press(self, keys: str) -> None:
        """A key, once what it acts on has been there for as long as a person needs at the least."""
        self.page.wait_for_timeout(300)
        self.page.keyboard.press(keys)

    def label(self, keys: str) -> str:
        """A key that labels, and the next pair on the desk; the token of the pair that was labelled."""
        before = self.token()
        self.press(keys)
        self.page.wait_for_function("token => document.querySelector('.pair')?.dataset.token !== token", arg=before)
        return before

    def token(self) -> str:
        return self.page.locator(".pair").get_attribute("data-token") or ""

    def sent(self) -> None:
        """Nothing is on its way to the server any more."""
        self.page.wait_for_function("() => !Object.keys(localStorage).some(key => key.startsWith('rondo.outbox'))")

    def keep(self, name: str) -> None:
        """A screenshot among the tests' output."""
        OUTPUT.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=OUTPUT / f"label-{name}.png")
