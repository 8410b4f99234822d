"""Tests run on foreign code: what passes, what does not, and that nothing gets out or stays behind."""

import asyncio
import os
import socket
import time
from pathlib import Path

import psutil
import pytest

from judge.verifier import runner, sandbox
from judge.verifier.config import VerifierBackend
from judge.verifier.judge import build_verifier
from judge.verifier.sandbox import run_tests
from rollout.errors import DataError, UsageError
from tests.support.tiny_groups import make_group

RIGHT = "def f():\n    return 1\n"
TESTS = "assert f() == 1"

pytestmark = [pytest.mark.integration, pytest.mark.alone]


@pytest.fixture(params=["namespaces", "plain"])
def isolation(request, monkeypatch, tmp_path):
    """As the kernel allows, and as where it allows no namespaces."""
    if request.param == "plain":
        text = Path(runner.__file__).read_text()
        assert "isolated = _unshare()" in text
        path = tmp_path / "runner.py"
        path.write_text(text.replace("isolated = _unshare()", "isolated = False"))
        for folder in (path, *path.parents[:3]):
            folder.chmod(0o755)
        monkeypatch.setattr(sandbox, "_RUNNER", path)
    return request.param


def run(code, tests=TESTS, *, timeout_s=5.0, memory_mib=256):
    outcome = asyncio.run(run_tests(code, tests, timeout_s=timeout_s, memory_mib=memory_mib))
    return outcome.what, outcome.detail


def test_right_code_passes_and_wrong_code_says_where(isolation):
    assert run(RIGHT) == ("passed", "")
    assert run(RIGHT, "value = f()\nassert value == 2, 'not two'") == (
        "failed",
        "<tests> line 2: AssertionError: not two",
    )
    assert run("def f(): return g()", TESTS) == ("failed", "<answer> line 1: NameError: name 'g' is not defined")
    assert run("def f(:")[0] == "failed"
    assert run("\0")[0] == run("\ud800")[0] == "failed"


def test_test_functions_and_cases_are_run():
    assert run(RIGHT, f"def test_f():\n    {TESTS}")[0] == "passed"
    assert run(RIGHT, "def test_f():\n    assert f() == 2")[0] == "failed"
    assert run(RIGHT, "async def test_f():\n    assert f() == 2")[0] == "failed"
    case = "import unittest\nclass T(unittest.TestCase):\n    def test_f(self):\n        self.assertEqual(f(), {})"
    assert run(RIGHT, case.format(1))[0] == "passed"
    assert run(RIGHT, case.format(2))[0] == "failed"


@pytest.mark.parametrize(
    "code",
    [
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "raise SystemExit(0)",
        "import os\ndef f():\n    os._exit(0)",
        "import sys\ndef f():\n    sys.exit(0)",
        "print('passed'); print('OK')\nimport os; os.write(1, b'passed \"\"\\n'); os._exit(0)",
        "import os\nfor n in range(3, 60):\n    try: os.write(n, b'0' * 32 + b' passed \"\"\\n')\n"
        "    except OSError: pass\nos._exit(0)",
        "import os, glob\nfor p in glob.glob('**', recursive=True): os.remove(p)",
        "import sys\nsys.modules.clear()",
        "import builtins\nbuiltins.exec = builtins.compile = lambda *a, **k: None",
        "import builtins\nbuiltins.AssertionError = type('Fine', (SystemExit,), {})\ndef f(): return 0",
        "import unittest, traceback\ntraceback.format_exc = print\ndef f(): raise KeyboardInterrupt",
        "import atexit, os\natexit.register(os._exit, 0)\ndef f(): return 0",
        "import os\nos.closerange(0, 64)\ndef f(): return 1",
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): return f()",
        "tests = open('tests.py').read()",
        "import sys\ndata = sys.stdin.read()\nassert data",
    ],
)
def test_no_trick_of_the_answer_passes(code):
    assert run(code, timeout_s=1.0)[0] != "passed"


def test_closing_standard_output_and_reading_standard_input_harms_nobody():
    assert run("import sys, os\nsys.stdout.close(); os.close(1); os.close(2)\n" + RIGHT)[0] == "passed"
    assert run("import sys\nassert sys.stdin.read() == ''\n" + RIGHT)[0] == "passed"
    assert run("print('x' * 10_000_000)\n" + RIGHT)[0] == "passed"


def test_an_endless_loop_ends_at_its_deadline(isolation):
    start = time.monotonic()
    assert run("while True: pass", timeout_s=0.5)[0] == "timed_out"
    deaf = "for s in range(1, 60):\n    try: signal.signal(s, signal.SIG_IGN)\n    except OSError: pass\n"
    assert run(f"import signal, time\n{deaf}time.sleep(60)", timeout_s=0.5)[0] == "timed_out"
    assert time.monotonic() - start < 6


def test_memory_and_files_are_bounded(isolation):
    assert run("data = bytearray(10 << 30)")[1].startswith("<answer> line 1: MemoryError")
    big = "with open('big', 'wb') as file:\n    for _ in range(64): file.write(bytes(1 << 20))"
    assert run(big)[0] in ("failed", "died")


def left_behind(mark):
    """Processes that carry the mark; the zombies of a moment ago are none."""
    found = []
    for process in psutil.process_iter(["name", "status"]):
        if process.info["name"] == mark and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(process.pid)
    return found


def is_gone(mark):
    """Whether none is left soon: what was killed takes a moment to die on a busy machine, but sleeps for 60 s."""
    deadline = time.monotonic() + 5
    while left_behind(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not left_behind(mark)


def named(mark):
    return f"import ctypes, os, time\nctypes.CDLL(None).prctl(15, b'{mark}', 0, 0, 0)\n"


def test_a_fork_bomb_is_bounded_and_cleared_away(isolation):
    mark = f"bomb{os.getpid() % 10_000}{isolation[0]}"
    bomb = (
        named(mark)
        + "num = 0\nwhile True:\n    try:\n        os.fork()\n    except OSError:\n        time.sleep(0.2)\n"
    )
    peak = []

    async def watch():
        task = asyncio.ensure_future(run_tests(bomb, TESTS, timeout_s=1.0, memory_mib=128))
        while not task.done():
            await asyncio.sleep(0.2)
            peak.append(len(left_behind(mark)))
        return await task

    assert asyncio.run(watch()).what == "timed_out"
    assert 1 < max(peak) <= 64
    assert is_gone(mark)


@pytest.mark.parametrize("ending", ["", "os._exit(0)", "while True: pass"])
def test_a_daemon_does_not_outlive_its_answer(isolation, ending):
    mark = f"daem{os.getpid() % 10_000}{isolation[0]}{len(ending)}"
    daemon = named(mark) + (
        "if os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n        time.sleep(60)\n    os._exit(0)\n"
        f"time.sleep(0.2)\n{ending}\n"
    )
    expected = {"": "passed", "os._exit(0)": "died", "while True: pass": "timed_out"}[ending]
    start = time.monotonic()
    assert run(daemon + RIGHT, timeout_s=1.5)[0] == expected
    assert time.monotonic() - start < 10
    assert is_gone(mark)


def test_nothing_is_written_outside(isolation, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir(mode=0o755)
    kept = outside / "kept"
    kept.write_text("as it was")
    code = f"def f():\n    open({str(kept)!r}, 'w').write('gone')\n    return 1"
    alone = run("import os\nassert os.getpid() == 2\n" + RIGHT)[0] == "passed"
    if not alone and os.geteuid() != 0:
        pytest.skip("without namespaces the files of the user are the user's")
    if alone:
        kept.chmod(0o666)  # so that nothing but the mount stands in the way
    assert run(code)[0] == "failed"
    assert kept.read_text() == "as it was"
    assert run("open('inside', 'w').write('mine')\n" + RIGHT)[0] == "passed"


def test_the_environment_is_empty_and_the_network_out_of_reach():
    os.environ["RONDO_TEST_KEY"] = "secret"
    try:
        assert run("import os\nassert not os.environ\n" + RIGHT)[0] == "passed"
    finally:
        del os.environ["RONDO_TEST_KEY"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        what, detail = run(f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)\n" + RIGHT)
    if what == "passed":
        pytest.skip("this kernel gives no network namespace")
    assert "unreachable" in detail


def test_the_order_of_a_set_is_the_same_every_time():
    outcomes = {run("raise ValueError(list({'a', 'b', 'c', 'd', 'e'}))")[1] for _ in range(3)}
    assert len(outcomes) == 1


def test_evidence_names_no_address_and_no_folder():
    _, detail = run("import os\nraise ValueError(os.getcwd(), object())")
    assert detail == "<answer> line 2: ValueError: ('.', <object object at 0x>)"


def test_a_sandbox_that_does_not_start_is_no_wrong_answer(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "_RUNNER", tmp_path / "missing.py")
    with pytest.raises(DataError, match="sandbox_failed"):
        run(RIGHT)
    judge = build_verifier(VerifierBackend(check="unit_tests"))
    ((score,),) = asyncio.run(judge.score([make_group([RIGHT], reference=TESTS)]))
    assert (score.value, score.reason) == (None, "sandbox_failed")
    with pytest.raises(UsageError, match="cannot run a sandboxed test here"):
        asyncio.run(judge.start())


def test_answers_are_scored_by_their_tests_side_by_side():
    judge = build_verifier(VerifierBackend(check="unit_tests", timeout_s=1.5, concurrency=2))
    asyncio.run(judge.start())
    texts = [f"Here:\n```python\n{RIGHT}```\n", "def f(): return 2", "while True: pass", "I do not know"]
    groups = [make_group(texts, reference=[TESTS, "assert f() + 1 == 2"]), make_group([RIGHT], question="?")]
    first, second = asyncio.run(judge.score(groups))
    assert [score.value for score in first] == [1.0, 0.0, 0.0, 0.0]
    assert first[2].evidence == b"timed_out: not done after 1.5 s"
    assert [score.reason for score in second] == ["no_reference"]
