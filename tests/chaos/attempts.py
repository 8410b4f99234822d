"""One start of `rondo run`, by itself or as a job of a cluster, and the processes that it is made of."""

import os
import re
import signal
import sys
import time
from pathlib import Path

from ray.job_submission import JobStatus, JobSubmissionClient

from tests.chaos.actors import ACTORS, actors_of
from tests.chaos.machines import Nodes
from tests.support.processes import ROOT, Command

_ASK_S = 0.2


class Attempt:
    """The command as a process. address: of a running cluster, or empty: it starts a Ray of its own."""

    def __init__(self, arguments: tuple[str, ...], *, log: Path, address: str = "", **environment: str) -> None:
        self.log = log
        joined = {"RAY_ADDRESS": address} if address else {}
        self._is_guest = bool(address)
        self._command = Command(*arguments, log=log, OMP_NUM_THREADS="1", **joined, **environment)
        self.pid = self._command.process.pid

    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self._command.process.poll()

    def kill(self, *, alone: bool) -> None:
        """SIGKILL to the driver: alone, or with all that it started."""
        os.kill(self.pid, signal.SIGKILL) if alone else self._command.kill()
        self._command.process.wait()

    def said(self) -> str:
        """All that it wrote, on one line."""
        return on_one_line(self.log.read_text(errors="replace"))

    def leftovers(self, within_s: float) -> list[str]:
        """Its processes that are still there after this long."""
        found = self._command.leftovers(within_s=within_s)
        return found or (_actors_left(within_s) if self._is_guest else [])


class JobAttempt:
    """The command as a submitted job. stop_wait_s: how long `ray job stop` waits before it kills."""

    def __init__(self, arguments: tuple[str, ...], *, log: Path, nodes: Nodes, stop_wait_s: int) -> None:
        self.log, self._asked = log, 0.0
        self._client = JobSubmissionClient(nodes.jobs_url)
        variables = {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "RAY_JOB_STOP_WAIT_TIME_S": str(stop_wait_s),
        }
        entrypoint = " ".join([sys.executable, "-m", "orchestrator.cli", *arguments])
        self._job = self._client.submit_job(
            entrypoint=f"cd {ROOT} && exec {entrypoint}", runtime_env={"env_vars": variables}
        )

    def code(self) -> int | None:
        """The exit code; that of a job that was stopped is not kept, but what it said last is."""
        if time.monotonic() - self._asked < _ASK_S:
            return None
        self._asked = time.monotonic()
        found = self._client.get_job_info(self._job)
        if found.status not in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED):
            return None
        if found.status == JobStatus.STOPPED:
            return 3 if "stopped by SIGTERM; the same command resumes" in self.said() else -signal.SIGKILL
        return -signal.SIGKILL if found.driver_exit_code is None else found.driver_exit_code

    def stop(self) -> None:
        """What `ray job stop` asks the cluster for."""
        self._client.stop_job(self._job)

    def said(self) -> str:
        """All that it wrote, on one line."""
        text = self._client.get_job_logs(self._job)
        self.log.write_text(text)
        return on_one_line(text)

    def leftovers(self, within_s: float) -> list[str]:
        """Actors that are still there after this long."""
        return _actors_left(within_s)


def on_one_line(text: str) -> str:
    return " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).split())


def _actors_left(within_s: float) -> list[str]:
    deadline = time.monotonic() + within_s
    while True:
        found = [f"{process.pid} {actor}" for actor in ACTORS for process in actors_of(actor)]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
