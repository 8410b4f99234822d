"""One driver a run: who holds the lock, who is waited for, and what is no longer committed."""

import os
import threading
import time

import pytest

from orchestrator.lock import Owner, is_held, lock_run
from rollout.errors import Stopped, UsageError
from rollout.shards import attempt_environment, discard, read_json, write_json
from tests.support.lock_holder import elsewhere

TIMEOUT_S = 1.2


def test_a_driver_elsewhere_that_gives_signs_of_life_is_not_replaced(tmp_path):
    elsewhere(tmp_path)
    ended = threading.Event()

    def renew():
        beat = 0
        while not ended.wait(0.1):
            beat += 1
            elsewhere(tmp_path, beat=beat)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(UsageError, match="process 1 on other"):
            lock_run(tmp_path, timeout_s=TIMEOUT_S)
    finally:
        ended.set()
        thread.join()


def test_a_lock_is_renewed_and_let_go(tmp_path):
    lock = lock_run(tmp_path, timeout_s=0.12)
    with pytest.raises(UsageError, match=f"process {os.getpid()} on"):
        lock_run(tmp_path, timeout_s=60.0)
    time.sleep(0.2)
    assert read_json(tmp_path / "lock/000001.json", Owner).beat >= 2
    lock.release()
    lock.release()
    assert not is_held(tmp_path)
    again = lock_run(tmp_path, timeout_s=60.0)
    assert (again.number, [path.name for path in (tmp_path / "lock").iterdir()]) == (2, ["000002.json"])
    again.release()


def test_a_lock_that_was_never_finished_is_waited_out(tmp_path):
    elsewhere(tmp_path)
    (tmp_path / "lock/000001.json").write_bytes(b"")
    lock = lock_run(tmp_path, timeout_s=0.1)
    assert lock.number == 2
    lock.release()


def test_what_works_for_a_replaced_attempt_commits_nothing(tmp_path):
    """As in an actor, which has its driver's attempt from the environment."""
    run, other = tmp_path / "run", tmp_path / "other"
    write_json(run / "a.json", 1)
    write_json(run / "folder/b.json", 1)
    lock = lock_run(run, timeout_s=60.0)
    assert attempt_environment() == {"RONDO_ATTEMPT": f"1:{run}"}
    write_json(run / "a.json", 2)
    elsewhere(run, number=2)
    for commit in (lambda: write_json(run / "a.json", 3), lambda: discard(run / "folder")):
        with pytest.raises(Stopped, match="attempt 2 has taken over"):
            commit()
    write_json(other / "a.json", 3)
    assert [read_json(folder / "a.json", int) for folder in (run, other)] == [2, 3]
    assert (run / "folder/b.json").exists()
    lock.release()
    assert attempt_environment() == {}


def test_a_run_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        lock_run(tmp_path / "file", timeout_s=60.0)
