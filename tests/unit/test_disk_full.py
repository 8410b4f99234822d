"""A full disk is told in one line, whoever met it, and is not tried again elsewhere."""

import errno
import os

import pytest
import ray
from ray.exceptions import RayTaskError
from rich.console import Console
from safetensors import SafetensorError

from orchestrator import cli
from orchestrator.cluster.calls import Calls
from orchestrator.observer import Observer
from rollout.errors import DiskFullError, InfraError

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "rounds/0000/groups/00000.arrow")
FULL_IN_RUST = SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")


@pytest.mark.parametrize("cause", [FULL, FULL_IN_RUST])
def test_an_actor_without_room_is_no_failure_to_try_again(monkeypatch, tmp_path, cause):
    def fails(ref, timeout):
        raise RayTaskError("generate", "a traceback", cause)

    monkeypatch.setattr(ray, "get", fails)
    calls = Calls(Observer(tmp_path, console=Console(quiet=True)))
    with pytest.raises(DiskFullError, match=r"generation on engine 0: .*No space left on device.*resumes") as raised:
        calls.get("ref", what="generation on engine 0", timeout_s=None)
    assert not isinstance(raised.value, InfraError)


def test_a_driver_without_room_says_so_in_one_line(monkeypatch, capsys):
    def fails(standalone_mode):
        raise FULL

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr().err.strip()
    assert ended.value.code == 1
    assert len(said.splitlines()) == 1
    assert said.startswith("failed: ")
    assert "00000.arrow" in said


def test_other_errors_keep_their_traceback(monkeypatch):
    def fails(standalone_mode):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(cli, "app", fails)
    with pytest.raises(OSError, match="Input/output"):
        cli.main()
