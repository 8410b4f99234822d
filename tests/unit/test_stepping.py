"""The thread under the vLLM engine: it may fail, but never silently and never half."""

import threading
import time
from dataclasses import dataclass

import pytest

from rollout.errors import InfraError
from rollout.stepping import Stepper


@dataclass
class Output:
    request_id: str
    finished: bool
    steps: int


class CountingEngine:
    """Finishes a request after three steps, unless it is called endless."""

    def __init__(self) -> None:
        self.running: dict[str, int] = {}
        self.aborted: list[str] = []
        self.broken: BaseException | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.was_shut_down = False

    def add(self, request_id: str) -> None:
        if request_id == "refused":
            raise ValueError("no such prompt")
        self.running[request_id] = 0

    def has_unfinished_requests(self) -> bool:
        return bool(self.running)

    def step(self) -> list[Output]:
        self.gate.wait()
        if self.broken is not None:
            raise self.broken
        for request_id in self.running:
            self.running[request_id] += 1
        outputs = [Output(name, steps >= 3 and name != "endless", steps) for name, steps in self.running.items()]
        for output in outputs:
            if output.finished:
                del self.running[output.request_id]
        return outputs

    def abort_request(self, request_ids: list[str]) -> None:
        self.aborted += request_ids
        for request_id in request_ids:
            self.running.pop(request_id, None)


def shut_down(engine: CountingEngine) -> None:
    engine.was_shut_down = True


@pytest.fixture
def engine():
    return CountingEngine()


@pytest.fixture
def stepper(engine):
    stepper = Stepper(lambda: engine, shut_down=shut_down, name="counting engine")
    yield stepper
    engine.gate.set()
    assert stepper.close(5)


def submit(stepper, request_id):
    return stepper.submit(request_id, lambda engine: engine.add(request_id))


def test_requests_finish_and_their_futures_hold_the_output(stepper):
    futures = [submit(stepper, str(n)) for n in range(5)]
    assert [future.result(5).request_id for future in futures] == list("01234")


def test_a_refused_request_is_its_own_failure_only(stepper):
    other = submit(stepper, "fine")
    with pytest.raises(ValueError, match="no such prompt"):
        submit(stepper, "refused").result(5)
    assert other.result(5).finished


def test_an_exception_in_a_step_fails_everyone_who_waits_and_everyone_who_comes_later(stepper, engine):
    engine.gate.clear()
    waiting = [submit(stepper, str(n)) for n in range(3)]
    engine.broken = MemoryError("out of blocks")
    engine.gate.set()
    for future in waiting:
        with pytest.raises(InfraError, match="counting engine failed, MemoryError: out of blocks"):
            future.result(5)
    with pytest.raises(InfraError, match="out of blocks"):
        submit(stepper, "later").result(5)
    assert stepper.close(5)
    assert engine.was_shut_down


def test_an_engine_that_cannot_be_built_is_reported_as_such():
    def build():
        raise RuntimeError("no such device")

    stepper = Stepper(build, shut_down=shut_down, name="counting engine")
    with pytest.raises(InfraError, match="RuntimeError: no such device"):
        stepper.ready.result(5)
    with pytest.raises(InfraError, match="no such device"):
        submit(stepper, "1").result(5)


def test_a_call_runs_between_two_steps_and_a_failing_one_ends_the_thread(stepper, engine):
    future = submit(stepper, "1")
    assert stepper.call(lambda engine: sorted(engine.running)).result(5) in ([], ["1"])
    assert future.result(5).finished
    engine.gate.clear()
    pending = submit(stepper, "2")
    failing = stepper.call(lambda engine: 1 / 0)
    engine.gate.set()
    with pytest.raises(ZeroDivisionError):
        failing.result(5)
    with pytest.raises(InfraError, match="ZeroDivisionError"):
        pending.result(5)
    assert stepper.ended is not None


def test_restarted_requests_begin_anew_and_others_go_on(stepper, engine):
    engine.gate.clear()
    kept, anew = submit(stepper, "kept"), submit(stepper, "score-1")
    time.sleep(0.05)
    stepper.call(lambda engine: stepper.restart_requests(engine, "score-")).add_done_callback(lambda _: None)
    engine.gate.set()
    assert kept.result(5).finished
    assert anew.result(5).finished
    assert engine.aborted == ["score-1"]


def test_a_cancelled_request_leaves_the_engine(stepper, engine):
    submit(stepper, "endless")
    stepper.cancel("endless")
    assert submit(stepper, "other").result(5).finished
    assert engine.aborted == ["endless"]
    assert engine.running == {}


def test_closing_fails_what_is_pending_and_shuts_the_engine_down(stepper, engine):
    pending = submit(stepper, "endless")
    assert stepper.close(5)
    with pytest.raises(InfraError, match="counting engine was closed"):
        pending.result(5)
    assert engine.was_shut_down
