"""SIGKILL to the whole quickstart, ten times, each after the attempt's first new commit or group shard."""

import hashlib
import time

import pytest
import yaml

from orchestrator.status import open_journal
from tests.support.accounts import check_accounts
from tests.support.processes import Command, rondo
from tests.support.tiny_policy import make_tiny_policy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(2700)]

NUM_KILLS = 10


def durable(root) -> set[tuple[str, int]]:
    """What a run has committed: group shards by name, records by name and size."""
    found = [*root.glob("rounds/*/groups/*.json"), *root.glob("rounds/*/record.json")]
    return {(path.relative_to(root).as_posix(), path.stat().st_size) for path in found}


def digest_of_finished_rounds(root) -> dict[str, str]:
    found = {}
    if not (root / "config.json").exists():
        return found
    for record in open_journal(root).records():
        if record.stage == "done":
            paths = [
                path
                for name in (
                    f"rounds/{record.round_id:04d}",
                    f"learner/{record.round_id:04d}",
                    record.update.policy_out.path,
                )
                for path in sorted((root / name).rglob("*"))
                if path.is_file()
            ]
            found |= {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return found


def test_ten_kills_lose_nothing(quickstart, tmp_path):
    with open("configs/quickstart.yaml") as file:
        tree = yaml.safe_load(file)
    tree["num_rounds"] = 3
    tree["policy"] = {"path": str(quickstart.root / "policies/v0000"), "dtype": "float32"}
    config = tmp_path / "killed.yaml"
    config.write_text(yaml.safe_dump(tree))
    root = tmp_path / "run"
    arguments = ("run", str(config), "--run-dir", str(root))
    finished: dict[str, str] = {}
    for number in range(NUM_KILLS):
        before = durable(root)
        command = Command(*arguments, log=tmp_path / "log")
        while durable(root) <= before:
            assert command.process.poll() is None, (
                f"attempt {number} ended by itself: {(tmp_path / 'log').read_text()[-2000:]}"
            )
            time.sleep(0.05)
        command.kill()
        # Nothing of this attempt may write any more when the next one is waited for. Workers that Ray was just starting
        # look for their node for half a minute before they give up.
        assert command.leftovers(within_s=90) == [], f"attempt {number} left processes behind"
        now = digest_of_finished_rounds(root)
        assert finished.items() <= now.items(), "a committed round has changed"
        finished = now
    code, _, err = rondo(*arguments, timeout_s=1200)
    assert code == 0, err
    assert finished.items() <= digest_of_finished_rounds(root).items(), "a committed round has changed"
    check_accounts(root)


def test_stopped_on_purpose_is_exit_code_3_and_resumable(tmp_path):
    tree = {
        "num_rounds": 2,
        "policy": {"path": str(make_tiny_policy(tmp_path / "policy")), "dtype": "float32"},
        "prompts": {"path": "tests.support.tiny_judge:prompts", "num_per_round": 8},
        "rollout": {"engine": "transformers", "num_completions": 2, "max_new_tokens": 64},
        "judge": {"target": "tests.support.tiny_judge:score"},
    }
    config = tmp_path / "stopped.yaml"
    config.write_text(yaml.safe_dump(tree))
    arguments = ("run", str(config), "--run-dir", str(tmp_path / "run"))
    command = Command(*arguments)
    while not durable(tmp_path / "run"):
        assert command.process.poll() is None, command.finish(timeout_s=10)
        time.sleep(0.05)
    command.process.terminate()
    code, _, err = command.finish(timeout_s=60)
    assert code == 3, err
    assert "stopped by SIGTERM; the same command resumes" in err
    assert command.leftovers() == []
    code, out, err = rondo("status", str(tmp_path / "run"), "--json")
    assert '"state": "stopped"' in out
    code, _, err = rondo(*arguments)
    assert code == 0, err
    check_accounts(tmp_path / "run")
    started = time.monotonic()
    assert rondo(*arguments)[0] == 0
    assert time.monotonic() - started < 60, "a finished run was started again"
