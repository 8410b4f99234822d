"""`rondo label`: the queue of people who judge, and their page, apart from a run."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from judge.config import HumanBackend, people_of
from judge.human.accounts import Accounts
from judge.human.database import Database
from judge.human.judge import queue_url
from judge.human.rounds import Rounds
from judge.human.types import RoundView
from orchestrator.judge_section import load_judge
from orchestrator.people import last_address
from rollout.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Queue:
    """The queue that a configuration names."""

    people: HumanBackend
    database: Database
    root: Path


def open_queue(config: Path, run_dir: Path | None, overrides: list[str] | None) -> Queue:
    """Find the queue of a configuration, and bring its tables up to date.

    Raises UsageError where nobody is asked by this configuration, or the database cannot be used.
    """
    settings, _ = load_judge(config, overrides)
    people = people_of(settings)
    if people is None:
        raise UsageError(f"{config} has judge.kind {settings.kind}; people are asked with judge: {{kind: human}}")
    root = (run_dir or Path("runs") / config.stem).absolute()
    if people.queue_url is None:
        (root / "labels").mkdir(parents=True, exist_ok=True)
    database = Database(queue_url(people, root))
    database.check()
    database.upgrade()
    return Queue(people=people, database=database, root=root)


def serve_page(queue: Queue, console: Console) -> None:
    """Serve the labelling page until it is stopped."""
    from judge.human.page.serve import serve

    def announce(address: str) -> None:
        console.print(f"labelling page: {address}", highlight=False)
        if not Accounts(queue.database).has_administrator():
            console.print(f"first administrator: {_link(address, _invite_administrator(queue))}", highlight=False)

    serve(queue.database, queue.people.page, announce=announce)


def administrator_link(queue: Queue) -> str:
    """A link with which somebody becomes an administrator: good once, for a week."""
    return _link(queue.people.page.public_url or last_address(queue.root), _invite_administrator(queue))


def annotator_links(queue: Queue, num: int, note: str) -> list[str]:
    """As many invitations for annotators, each good once, for a week."""
    accounts = Accounts(queue.database)
    address = queue.people.page.public_url or last_address(queue.root)
    return [_link(address, accounts.invite("annotator", note)) for _ in range(num)]


def queue_status(queue: Queue) -> dict[str, Any]:
    """How far each round of the queue is; times in seconds since the epoch."""
    return {
        "address": queue.people.page.public_url or last_address(queue.root) or None,
        "rounds": [_row(view) for view in Rounds(queue.database).all()],
    }


def find_round(queue: Queue, round_id: int, purpose: str, run_id: str | None) -> RoundView:
    """The round of this number in the queue. Raises UsageError where there is none, or several runs have one."""
    views = Rounds(queue.database).all()
    found = [v for v in views if v.key.round_id == round_id and v.key.purpose == purpose]
    found = [v for v in found if run_id in (None, v.key.run_id)]
    if len(found) != 1:
        have = ", ".join(sorted({f"{v.key.round_id} of run {v.key.run_id}" for v in views})) or "none"
        raise UsageError(f"the queue has {len(found)} rounds {round_id} ({purpose}), expected one; it has: {have}")
    return found[0]


def queue_table(found: dict[str, Any]) -> Table:
    """The status as a person reads it."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    table.title = f"labelling page: {found['address'] or 'not served by this run'}"
    for name in ("round", "run", "state", "pairs", "settled", "given up", "labels", "late", "deadline"):
        table.add_column(name, justify="left" if name in ("run", "state") else "right")
    now = time.time()
    for row in found["rounds"]:
        state = row["state"] + (f" by {row['sealed_by']}" if row["sealed_by"] else "")
        left = "-" if row["deadline_at"] is None or row["sealed_at"] else _left(row["deadline_at"] - now)
        figures = [row[name] for name in ("num_tasks", "num_resolved", "num_given_up", "num_labels", "num_late")]
        which = str(row["round_id"]) + ("" if row["purpose"] == "pairs" else f" {row['purpose']}")
        table.add_row(which, row["run_name"], state, *map(str, figures), left)
    return table


def _invite_administrator(queue: Queue) -> str:
    return Accounts(queue.database).invite("administrator", "first administrator")


def _link(address: str, token: str) -> str:
    return f"{address or 'http://ADDRESS-OF-THE-PAGE'}/invitation/{token}"


def _row(view: RoundView) -> dict[str, Any]:
    names = (
        *("run_name", "state", "num_tasks", "num_resolved", "num_given_up", "num_labels", "num_late"),
        *("opened_at", "deadline_at", "sealed_at", "sealed_by", "sha256"),
    )
    key = {"run_id": view.key.run_id, "round_id": view.key.round_id, "purpose": view.key.purpose}
    return {**key, **{name: getattr(view, name) for name in names}}


def _left(seconds: float) -> str:
    if seconds <= 0:
        return "passed"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"in {hours // 24} d {hours % 24} h" if hours >= 48 else f"in {hours} h {minutes} min"
