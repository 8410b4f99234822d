"""One driver a run, by processes that are killed, held up, and started at once."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.lock import is_held
from tests.support.lock_holder import elsewhere

pytestmark = pytest.mark.integration

TIMEOUT_S = 0.6
ROOT = Path(__file__).parents[2]


class Driver:
    """Ready once it is made; takes the lock when it is told to."""

    def __init__(self, root):
        command = [sys.executable, "-m", "tests.support.lock_holder", str(root), str(TIMEOUT_S)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.line() == "ready"

    def go(self):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def line(self):
        return self.process.stdout.readline().strip()

    def end(self):
        out, _ = self.process.communicate(timeout=30)
        return self.process.returncode, out.splitlines()


@pytest.fixture
def start(tmp_path):
    drivers = []

    def begin():
        drivers.append(Driver(tmp_path / "run"))
        return drivers[-1]

    yield begin
    for driver in drivers:
        driver.process.kill()
        driver.process.communicate()


def test_a_second_driver_is_refused_in_one_line_and_the_one_after_a_kill_is_not(start, tmp_path):
    first, second, third = start(), start(), start()
    first.go()
    assert first.line() == "attempt 1"
    assert is_held(tmp_path / "run")
    second.go()
    code, (line,) = second.end()
    assert code == 2
    assert line.startswith("refused: another process is running in ")
    assert f"process {first.process.pid}" in line
    first.process.kill()  # SIGKILL: the lock is still there, but its process is not
    first.end()
    assert not is_held(tmp_path / "run")
    third.go()
    assert third.line() == "attempt 2", "a lock of a dead process of this machine is not waited out"


def test_a_driver_that_was_held_up_is_replaced_and_commits_nothing_more(start, tmp_path):
    first, second = start(), start()
    first.go()
    assert first.line() == "attempt 1"
    committed = tmp_path / "run/commit-1.json"
    while not committed.exists():
        time.sleep(0.01)
    first.process.send_signal(signal.SIGSTOP)
    time.sleep(TIMEOUT_S / 2)  # until it is no longer young
    second.go()
    assert "for a sign of life before it is taken over" in second.line()
    assert second.line() == "attempt 2"
    before = committed.read_bytes()
    first.process.send_signal(signal.SIGCONT)
    code, lines = first.end()
    assert code == 3
    assert any(line.startswith("stopped: attempt 2 has taken over") for line in lines)
    assert committed.read_bytes() == before
    time.sleep(TIMEOUT_S)
    assert second.process.poll() is None, "who took over goes on"


def test_of_many_who_wait_one_gets_the_lock(start, tmp_path):
    elsewhere(tmp_path / "run")
    drivers = [start() for _ in range(3)]
    for driver in drivers:
        driver.go()
    assert all("was locked by process 1 on other; waiting" in driver.line() for driver in drivers)
    said = [driver.line() for driver in drivers]
    assert sorted(line.partition(":")[0] for line in said) == ["attempt 2", "refused", "refused"]
