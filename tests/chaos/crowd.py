"""One annotator on the page of a run, over all attempts: works whenever the page is there, and is patient otherwise."""

import json
from contextlib import ExitStack
from pathlib import Path

from judge.human.crowd import Habits
from judge.human.database import Database
from tests.support.page_crowd import people


class Crowd:
    """Labels by a rule that sees no sides; begins when the page's address is known."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._working = ExitStack()
        self._address = ""

    def tend(self) -> None:
        """Begin, if the page has come up. Raises AssertionError if a page that came back is elsewhere."""
        file = self._root / "labels/address.json"
        if not file.exists():
            return
        address = json.loads(file.read_text())["address"]
        assert self._address in ("", address), f"the page was at {self._address}, and came back at {address}"
        if self._address:
            return
        self._address = address
        database = Database(f"sqlite:///{self._root}/labels/queue.sqlite")
        self._working.callback(database.close)
        habits = Habits(dwell_s=0.01, min_dwell_s=0.0, reads_texts=True)
        self._working.enter_context(people(address, database, choose=longer, habits=habits, num=1))

    def close(self) -> None:
        self._working.close()


def longer(html: str, left: str, right: str) -> str:
    return "tie" if len(left) == len(right) else "left" if len(left) > len(right) else "right"
