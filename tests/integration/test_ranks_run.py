"""`rondo run` with a learner of two ranks: Ray actors that the loop sees as one, and what becomes of one that dies."""

import contextlib
import time

import psutil
import pytest
import torch
import yaml

from learner.model import load_model
from tests.support.accounts import check_accounts
from tests.support.processes import Command
from tests.support.tiny_policy import make_tiny_policy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def configured(folder, *, num_ranks, num_epochs=1):
    tree = {
        "num_rounds": 2 if num_epochs == 1 else 1,
        "policy": {"path": str(make_tiny_policy(folder / "policy")), "dtype": "float32"},
        "prompts": {"path": "tests.support.tiny_judge:prompts", "num_per_round": 8},
        "rollout": {"engine": "transformers", "num_completions": 3, "max_new_tokens": 8, "prompts_per_shard": 4},
        "judge": {"target": "tests.support.tiny_judge:score"},
        "learner": {
            "learning_rate": 1e-3,
            "batch_pairs": 4,
            "num_threads": 1,
            "compute_dtype": "float32",
            "num_epochs": num_epochs,
            "num_ranks": num_ranks,
            "rank_timeout_s": 60,
        },
        "evaluation": {"prompts": "tests.support.tiny_judge:held_out"},
        "cluster": {"num_cpus": 6},
    }
    path = folder / f"ranks{num_ranks}.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def weights(root, version):
    model = load_model(root / f"policies/v{version:04d}", device=torch.device("cpu"))
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_a_run_with_two_ranks_ends_where_a_run_with_one_ends(tmp_path):
    for num_ranks in (1, 2):
        config = configured(tmp_path, num_ranks=num_ranks)
        command = Command("run", str(config), "--run-dir", str(tmp_path / f"run{num_ranks}"), OMP_NUM_THREADS="1")
        code, _, err = command.finish(timeout_s=400)
        assert code == 0, err
        assert command.leftovers(within_s=60) == []
        check_accounts(tmp_path / f"run{num_ranks}")
    for version in (1, 2):
        apart = (weights(tmp_path / "run1", version) - weights(tmp_path / "run2", version)).abs().max()
        assert apart < 1e-5
    assert (tmp_path / "run2/learner/0001/masters-00001-of-00002.safetensors").exists()


def processes_of(command, name):
    found = []
    for process in psutil.Process(command.process.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if name in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_rank_that_dies_is_named_and_its_round_is_learnt_again(tmp_path):
    config = configured(tmp_path, num_ranks=2, num_epochs=150)
    root = tmp_path / "run"
    command = Command("run", str(config), "--run-dir", str(root), log=tmp_path / "log", OMP_NUM_THREADS="1")
    deadline = time.monotonic() + 300
    while not (root / "metrics.jsonl").exists() or '"grad_norm"' not in (root / "metrics.jsonl").read_text():
        assert command.process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (rank,) = processes_of(command, "train_along")
    rank.kill()
    code, _, _ = command.finish(timeout_s=400)
    said = " ".join((tmp_path / "log").read_text().split())
    assert code == 0, said[-3000:]
    assert "learner rank 1 of 2" in said
    assert "round 0 is learnt again" in said
    assert command.leftovers(within_s=60) == []
