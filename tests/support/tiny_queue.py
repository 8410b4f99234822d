"""A small queue with a clock that stands until it is moved, on whatever database its URL names."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, insert, select

from judge.human.database import Database
from judge.human.rounds import Rounds
from judge.human.schema import annotators, labels, leases, rounds, secrets, tasks
from judge.human.tasks import Tasks
from judge.human.types import Lease, NewTask, Receipt, RoundKey, RoundView, Rules, Submission

START = 1_000_000.0
LEFT = Submission(choice="left")


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def a_task(name: str, **changes: Any) -> NewTask:
    messages = ({"role": "user", "content": f"Question {name}?"},)
    given = {"prompt_id": f"prompt-{name}", "a": 0, "b": 1, "messages": messages}
    return NewTask(**({"key": name, "text_a": f"first {name}", "text_b": f"second {name}"} | given | changes))


class TinyQueue:
    """Rounds, tasks and annotators `ann`, `ben`, `cem`, `dot` of one database."""

    def __init__(self, url: str, *, is_upgraded: bool = False) -> None:
        self.clock = Clock()
        self.database = Database(url, clock=self.clock)
        if not is_upgraded:
            self.database.upgrade()
        with self.database.write() as connection:  # the same sides and gold in every run of a test
            connection.execute(insert(secrets), {"name": "sides", "value": "17" * 32})
        self.rounds = Rounds(self.database)
        self.tasks = Tasks(self.database)
        self.num_rounds = 0
        self.ann, self.ben, self.cem, self.dot = (self.annotator(name) for name in ("ann", "ben", "cem", "dot"))

    def annotator(self, name: str, role: str = "annotator") -> int:
        row = {"name": name, "role": role, "created_at": self.clock.now}
        with self.database.write() as connection:
            return connection.execute(insert(annotators).returning(annotators.c.id), row).scalar_one()

    def round(self, *new: NewTask, num: int = 0, num_chunks: int = 1, **rules: Any) -> int:
        """A filled round (of one chunk) with these tasks, or with num plain ones."""
        given = {"double_share": 0.0, "min_dwell_s": 0.0, "labels_per_minute": 10_000} | rules
        key = RoundKey(run_id="run", round_id=self.num_rounds)
        self.num_rounds += 1
        view = self.rounds.open(key, "runs/tiny", Rules(**given), num_chunks)
        self.rounds.submit_chunk(view.row_id, 0, new or [a_task(f"t{index:05d}") for index in range(num)])
        return view.row_id

    def view(self, row_id: int) -> RoundView:
        return self.rounds.view(row_id)

    def draw(self, who: int, **options: Any) -> Lease:
        lease = self.tasks.draw(who, **options)
        assert lease is not None
        return lease

    def label(self, who: int, label: str = "a", **more: Any) -> Receipt:
        """Draw, and hand in a label by the pair's own sides."""
        return self.hand_in(who, self.draw(who), label, **more)

    def hand_in(self, who: int, lease: Lease, label: str = "a", **more: Any) -> Receipt:
        choice = {"a": self.side_of_a(lease), "b": "right" if self.side_of_a(lease) == "left" else "left"}
        if label == "skip":
            more = {"reason": "unclear"} | more
        return self.tasks.submit(who, lease.token, Submission(choice=choice.get(label, label), **more))

    def side_of_a(self, lease: Lease) -> str:
        query = select(leases.c.swapped).where(leases.c.token == lease.token)
        with self.database.read() as connection:
            return "right" if connection.execute(query).scalar_one() else "left"

    def count(self, table: Any, *where: Any) -> int:
        with self.database.read() as connection:
            return connection.execute(select(func.count()).select_from(table).where(*where)).scalar_one()

    def check_counts(self) -> None:
        """Raise AssertionError unless every count that is kept equals what it counts."""
        with self.database.read() as connection:
            for task in connection.execute(select(tasks, rounds.c.state).join(rounds)).all():
                mine = labels.c.task_row == task.id
                given = connection.execute(select(labels.c.label).where(mine, labels.c.is_counted)).scalars().all()
                held = select(func.count()).where(leases.c.task_row == task.id, leases.c.state == "active")
                num_held = connection.execute(held).scalar_one()
                if task.gold is not None:
                    assert (task.num_held, task.is_available, task.outcome) == (0, False, None)
                    continue
                if task.state == "sealed":
                    continue  # nobody is handed a pair of it any more
                assert task.num_held == num_held
                assert task.num_skips == sum(label == "skip" for label in given)
                assert task.num_labels == len(given) - task.num_skips
                room = task.num_labels + num_held < task.labels_wanted
                assert task.is_available == (task.outcome is None and room), dict(task._mapping)
            for row in connection.execute(select(rounds)).all():
                own = (tasks.c.round_row == row.id) & tasks.c.gold.is_(None)
                found = connection.execute(select(tasks.c.outcome, tasks.c.num_labels).where(own)).all()
                assert row.num_tasks == len(found)
                assert row.num_given_up == sum(task.outcome == "abstain" for task in found)
                assert row.num_resolved == sum(task.outcome not in {None, "abstain"} for task in found)
                assert row.num_labels == sum(task.num_labels for task in found)


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("queue") / "template.sqlite"
    database = Database(f"sqlite:///{path}")
    database.upgrade()
    database.close()
    return path


@pytest.fixture
def queue(template, tmp_path):
    """A queue on SQLite; the same tests run on PostgreSQL where a fixture of this name says so."""
    shutil.copy(template, tmp_path / "queue.sqlite")
    made = TinyQueue(f"sqlite:///{tmp_path}/queue.sqlite", is_upgraded=True)
    yield made
    made.database.close()
