"""Rondo's command in processes of its own, and the search for processes that it should not have left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
_MARK = "RONDO_TEST_MARK"


class Command:
    """`rondo ARGUMENTS`, whose processes carry a mark in their environment, however they were started."""

    def __init__(self, *arguments: str, cwd: Path = ROOT, log: Path | None = None, **environment: str) -> None:
        self.mark = uuid.uuid4().hex
        with contextlib.ExitStack() as files:
            out = files.enter_context(open(log, "ab")) if log else subprocess.PIPE
            self.process = subprocess.Popen(
                [sys.executable, "-m", "orchestrator.cli", *arguments],
                cwd=cwd,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment, _MARK: self.mark},
                stdout=out,
                stderr=out,
                text=True,
                start_new_session=True,
            )

    def finish(self, timeout_s: float) -> tuple[int, str, str]:
        """Exit code, standard output and standard error."""
        try:
            out, err = self.process.communicate(timeout=timeout_s)
        finally:
            self.kill()
        return self.process.returncode, out or "", err or ""

    def kill(self) -> None:
        """SIGKILL to the whole process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def leftovers(self, within_s: float = 20.0) -> list[str]:
        """Command lines of its processes that are still there after this long."""
        deadline = time.monotonic() + within_s
        while True:
            found = [line for pid in psutil.pids() if (line := self._marked(pid)) is not None]
            if not found or time.monotonic() > deadline:
                return found
            time.sleep(0.2)

    def _marked(self, pid: int) -> str | None:
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            process = psutil.Process(pid)
            if process.environ().get(_MARK) == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                return " ".join(process.cmdline())
        return None


def rondo(*arguments: str, timeout_s: float = 600.0, **kwargs: str) -> tuple[int, str, str]:
    """Run the command to its end: exit code, standard output, standard error."""
    return Command(*arguments, **kwargs).finish(timeout_s)
