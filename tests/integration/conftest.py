"""One quickstart for all tests that need a policy which has learnt to answer."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.processes import Command


@dataclass(frozen=True)
class Finished:
    root: Path
    err: str
    leftovers: list[str]


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory) -> Finished:
    root = tmp_path_factory.mktemp("quickstart") / "run"
    command = Command("run", "configs/quickstart.yaml", "--run-dir", str(root))
    code, out, err = command.finish(timeout_s=1500)
    assert code == 0, err
    assert out == "", "standard output is for --json"
    return Finished(root, err, command.leftovers())
