"""One quickstart for all tests that need a policy which has learnt to answer, and one reward model of its pairs."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from tests.support.processes import Command, rondo

# Two tests at a time: Ray's workers are not to wait until the other one leaves them a core.
os.environ.setdefault("RAY_worker_niceness", "0")


# Their tests take half of the time, so one worker begins with them, on one quickstart, and the other has all the rest.
WITH_QUICKSTART = frozenset(
    {"test_kill.py", "test_over_optimisation.py", "test_people.py", "test_quickstart.py", "test_reward_model.py"}
)


class FilesTogether(LoadScopeScheduling):
    """Files stay whole, and those that need the quickstart are one."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0]).name
        return "quickstart" if file in WITH_QUICKSTART else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return FilesTogether(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "quickstart" in getattr(item, "fixturenames", ()) and item.path.name not in WITH_QUICKSTART:
            raise pytest.UsageError(f"{item.path.name} needs the quickstart; name it in WITH_QUICKSTART")
    items.sort(key=lambda item: item.path.name not in WITH_QUICKSTART)


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
    settings += ("--freeze-embeddings",)
    paths = (str(quickstart.root), "--model", str(quickstart.root / "policies/v0000"), "--out", str(folder))
    code, out, err = rondo("reward-model", "fit", *paths, *settings, "--json", timeout_s=1200)
    assert code == 0, err
    return FittedReward(folder, json.loads(out), err)
