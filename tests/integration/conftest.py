"""One quickstart for all tests that need a policy which has learnt to answer, and one reward model of its pairs."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import Command, rondo

# Two tests at a time: Ray's workers are not to wait until the other one leaves them a core.
os.environ.setdefault("RAY_worker_niceness", "0")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With `--dist loadgroup`: whatever needs the quickstart shares one, every other file stays whole.

    The quickstart's tests take half of the time, so one worker begins with them and the other has all the rest.
    """
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    for item in here:
        item.add_marker(pytest.mark.xdist_group("quickstart" if needs_quickstart(item) else item.path.name))
    items.sort(key=lambda item: item in here and not needs_quickstart(item))


def needs_quickstart(item: pytest.Item) -> bool:
    return "quickstart" in getattr(item, "fixturenames", ())


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


@dataclass(frozen=True)
class FittedReward:
    folder: Path
    report: dict[str, Any]
    err: str


@pytest.fixture(scope="session")
def quickstart_reward(quickstart, tmp_path_factory) -> FittedReward:
    """What the heading of configs/quickstart-reward-model.yaml says to fit."""
    folder = tmp_path_factory.mktemp("reward") / "model"
    settings = ("--epochs", "3", "--learning-rate", "5e-4", "--batch-pairs", "16", "--held-out-share", "0.25")
    paths = (str(quickstart.root), "--model", str(quickstart.root / "policies/v0000"), "--out", str(folder))
    code, out, err = rondo("reward-model", "fit", *paths, *settings, "--json", timeout_s=1200)
    assert code == 0, err
    return FittedReward(folder, json.loads(out), err)
