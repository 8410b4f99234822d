"""Code of an answer and the tests of its prompt, run in a process of their own that ends with everything it began.

The process starts in a fresh folder with an environment that its code finds empty, its own session, and limits on
address space, CPU seconds, file size, processes and open files; where the kernel allows it (as root, or by user
namespaces) it sees no network, no other process, and no file that it could write but those of its folder. That holds
off accidents and the tricks that a policy stumbles upon. It is no security boundary against a determined attacker: the
code shares a kernel with us, reads the files that the judge's user can read, and shares an interpreter with the tests,
so that code made to fool them (an object that equals everything, a search of the memory for the token) can.
"""

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from rollout.errors import DataError

_RUNNER = Path(__file__).with_name("runner.py")
_START_TIMEOUT_S = 60.0  # for the interpreter alone: a loaded machine makes no answer wrong
_DRAIN_TIMEOUT_S = 1.0
_MAX_OUTPUT_BYTES = 64 << 10
_MAX_SWEEPS = 20


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """passed, or why not: failed (with the end of the traceback), timed_out, or died without a word."""

    what: Literal["passed", "failed", "timed_out", "died"]
    detail: str = ""


async def run_tests(code: str, tests: str, *, timeout_s: float, memory_mib: int) -> Outcome:
    """What came of the tests; passed only if all of them ran to their end.

    Raises DataError: bad_reference where the tests are no Python, sandbox_failed where the sandbox did not start.
    """
    token = secrets.token_hex(16)
    task = {"token": token, "code": code, "tests": tests, "cpu_s": timeout_s, "memory_bytes": memory_mib << 20}
    with tempfile.TemporaryDirectory(prefix="rondo-", ignore_cleanup_errors=True) as folder:
        os.chmod(folder, 0o1777)  # who runs the code is not always who made the folder
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                # What -I stands for but for -E, since the environment is ours: a fixed order of sets, equal labels.
                "-sP",
                str(_RUNNER),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                cwd=folder,
                env={"PYTHONHASHSEED": "0"},
                start_new_session=True,
                limit=_MAX_OUTPUT_BYTES,
            )
        except OSError as error:
            raise DataError("sandbox_failed", f"{type(error).__name__}: {error}") from error
        try:
            return await _watch(process, json.dumps(task).encode(), token, timeout_s)
        finally:
            await _kill(process)


async def _watch(process: asyncio.subprocess.Process, task: bytes, token: str, timeout_s: float) -> Outcome:
    assert process.stdin is not None
    assert process.stdout is not None
    with contextlib.suppress(ConnectionError):  # said by the exit, too
        process.stdin.write(task)
        await process.stdin.drain()
        process.stdin.close()
    try:
        said = _read(await asyncio.wait_for(process.stdout.readline(), _START_TIMEOUT_S), token)
    except (TimeoutError, ValueError) as error:
        raise DataError("sandbox_failed", f"no word from it after {_START_TIMEOUT_S:g} s") from error
    if said is None:
        raise DataError("sandbox_failed", f"it ended before the answer began (exit code {process.returncode})")
    if said[0] == "bad_tests":
        raise DataError("bad_reference", said[1])
    output = bytearray()
    reader = asyncio.ensure_future(_collect(process.stdout, output))
    try:
        await asyncio.wait_for(process.wait(), timeout_s)
        await asyncio.wait({reader}, timeout=_DRAIN_TIMEOUT_S)
    except TimeoutError:
        return Outcome(what="timed_out", detail=f"not done after {timeout_s:g} s")
    finally:
        reader.cancel()
    for line in bytes(output).splitlines():
        match _read(line, token):
            case ("passed", _):
                return Outcome(what="passed")
            case ("failed", detail):
                return Outcome(what="failed", detail=detail)
            case ("bad_tests", detail):
                raise DataError("bad_reference", detail)
    return Outcome(what="died", detail="it ended before the tests were through")


async def _collect(stream: asyncio.StreamReader, output: bytearray) -> None:
    while len(output) < _MAX_OUTPUT_BYTES:  # a report is shorter; what writes more waits for us until its time is up
        read = await stream.read(_MAX_OUTPUT_BYTES - len(output))
        if not read:
            return
        output += read


def _read(line: bytes, token: str) -> tuple[str, str] | None:
    """A report of the runner's; None for whatever does not begin with the token."""
    head, _, rest = line.partition(b" ")
    what, _, detail = rest.partition(b" ")
    if head != token.encode():
        return None
    try:
        return what.decode(), str(json.loads(detail))
    except ValueError:
        return None


async def _kill(process: asyncio.subprocess.Process) -> None:
    """End the session as a whole, and what left it but not the process tree."""
    for _ in range(_MAX_SWEEPS if process.returncode is None else 0):
        with contextlib.suppress(psutil.Error):
            children = psutil.Process(process.pid).children(recursive=True)
            for child in children:
                with contextlib.suppress(psutil.Error):
                    child.kill()
            if children:
                continue
        break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
