"""A rehearsal on real Ray: every stage once, a verdict on each, and nothing left behind."""

import pytest
import yaml

from tests.support.processes import Command
from tests.support.tiny_policy import make_tiny_policy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return {
        "num_rounds": 5,
        "policy": {"path": str(make_tiny_policy(tmp_path_factory.mktemp("policy"))), "dtype": "float32"},
        "prompts": {"path": "tests.support.tiny_judge:prompts", "num_per_round": 12},
        "rollout": {"engine": "transformers", "num_completions": 3, "max_new_tokens": 8},
        "judge": {"target": "tests.support.tiny_judge:score"},
        "learner": {"learning_rate": 1e-3, "num_threads": 1},
        "evaluation": {"prompts": "tests.support.tiny_judge:held_out"},
        "cluster": {"num_cpus": 4},
    }


def rehearsed(tree, folder):
    (folder / "mine.yaml").write_text(yaml.safe_dump(tree))
    command = Command("run", str(folder / "mine.yaml"), "--run-dir", str(folder / "runs" / "mine"), "--rehearse")
    code, out, err = command.finish(timeout_s=240)
    assert out == ""
    assert command.leftovers() == []
    assert sorted(path.name for path in folder.iterdir()) == ["mine.yaml"], "nothing stays behind"
    rows = [line.split("  ") for line in err.splitlines()]
    return code, {row[0]: [cell.strip() for cell in row[1:] if cell.strip()] for row in rows}, err


def test_what_works_is_said_to_work(tree, tmp_path):
    code, rows, err = rehearsed(tree, tmp_path)
    assert code == 0, err
    parts = (
        "placement",
        "judge start",
        "engine start",
        "generation",
        "judge",
        "learner start",
        "learning",
        "weight sync",
    )
    assert all(rows[part][0] == "ok" for part in (*parts, "publication", "evaluation", "resume")), err
    assert "asks for 2 CPUs and 0 GPUs, the cluster has 4 CPUs" in err
    assert "tokens/s" in rows["generation"][-1]
    assert "went on from v1 to v2" in rows["resume"][-1]
    assert "nats a token apart" in rows["engine against learner"][-1]


def test_a_judge_that_fails_is_named_and_the_others_are_tried_all_the_same(tree, tmp_path):
    tree = {**tree, "judge": {"target": "tests.support.tiny_judge:raises"}}
    code, rows, err = rehearsed(tree, tmp_path)
    assert code == 1, err
    assert rows["judge"][0] == "failed"
    assert "rejected: judge_raised 8" in err
    assert "judge failed; going on without it" in err
    assert [part for part, cells in rows.items() if cells and cells[0] == "failed"] == ["judge"]
    assert rows["resume"][0] == "ok"
