"""Annotators who label by a rule, straight on the queue: for tests that are about something else than the page."""

import threading
import time
from contextlib import contextmanager

from judge.human.accounts import Accounts
from judge.human.database import Database
from judge.human.errors import Quarantined
from judge.human.tasks import Tasks
from judge.human.types import Submission


def longer(messages, left, right):
    """The longer answer."""
    return "tie" if len(left) == len(right) else "left" if len(left) > len(right) else "right"


@contextmanager
def annotators(url, *names, choose=longer, only=lambda lease: True):
    """People at work for as long as the block lasts; yields the list of what they were shown.

    only says which pairs they label; others they leave lying, leased.
    """
    database = Database(url)
    database.upgrade()
    tasks, accounts = Tasks(database), Accounts(database)
    ended, seen, failures = threading.Event(), [], []

    def work(annotator_id):
        try:
            while not ended.is_set():
                lease = tasks.draw(annotator_id, holding=10_000)
                if lease is None:
                    time.sleep(0.02)
                    continue
                seen.append(lease)
                if only(lease):
                    choice = choose(lease.messages, lease.left, lease.right)
                    tasks.submit(annotator_id, lease.token, Submission(choice=choice))
        except Quarantined:
            pass  # they are sent home
        except Exception as error:
            failures.append(error)

    threads = [
        threading.Thread(target=work, args=(accounts.add(name, "annotator").annotator_id,), daemon=True)
        for name in names or ("ann",)
    ]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join(10)
    assert not failures, failures
