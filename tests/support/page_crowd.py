"""Annotators at work on a real page, in a thread of the test."""

import asyncio
import threading
from contextlib import contextmanager

from judge.human.accounts import Accounts
from judge.human.crowd import Tally, crowd


@contextmanager
def people(address, database, *, choose, habits, num=8):
    """They join by invitations and label for as long as the block lasts; yields what they saw."""
    links = [f"/invitation/{Accounts(database).invite('annotator', 'test')}" for _ in range(num)]
    tally, failures = Tally(), []
    loop, ended = asyncio.new_event_loop(), asyncio.Event()
    working = crowd(address, links, habits=habits, choose=choose, ended=ended, tally=tally)

    def work():
        try:
            loop.run_until_complete(working)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield tally
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(60)
    assert not failures, failures
