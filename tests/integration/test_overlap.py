"""With a policy lag, Ray's engines and judges make the next round's pairs while the learner learns this one's."""

import json

import pytest
import yaml

from orchestrator.status import read_metrics
from tests.support.accounts import check_accounts
from tests.support.processes import Command, rondo
from tests.support.tiny_policy import make_tiny_policy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]


def test_the_next_round_is_generated_before_this_one_is_learnt(tmp_path):
    tree = {
        "num_rounds": 3,
        "max_policy_lag": 1,
        "policy": {"path": str(make_tiny_policy(tmp_path / "policy")), "dtype": "float32"},
        "prompts": {"path": "tests.support.tiny_judge:prompts", "num_per_round": 8},
        "rollout": {"engine": "transformers", "num_completions": 2, "max_new_tokens": 16, "prompts_per_shard": 2},
        "judge": {"target": "tests.support.tiny_judge:score"},
        "learner": {"num_epochs": 40, "batch_pairs": 2},  # longer than the generation of eight short answers
        "cluster": {"num_cpus": 4},
    }
    (tmp_path / "overlap.yaml").write_text(yaml.safe_dump(tree))
    root = tmp_path / "run"
    command = Command("run", str(tmp_path / "overlap.yaml"), "--run-dir", str(root))
    code, _, err = command.finish(timeout_s=600)
    assert code == 0, err
    assert command.leftovers() == []
    check_accounts(root)
    lines = read_metrics(root)
    for round_id in (0, 1):
        [learnt] = [line["time"] for line in lines if is_stage(line, "learn", round_id)]
        generated = [line["time"] for line in lines if line["kind"] == "generated" and line["round"] == round_id + 1]
        assert len(generated) == 4
        assert min(generated) < learnt, f"round {round_id + 1} waited for round {round_id}"
    code, out, _ = rondo("status", str(root), "--json")
    assert code == 0
    assert [one["lag"] for one in json.loads(out)["rounds"]] == [0, 1, 1]


def is_stage(line, stage, round_id):
    return (line["kind"], line["stage"], line["round"]) == ("stage", stage, round_id)
