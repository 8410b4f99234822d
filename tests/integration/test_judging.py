"""`rondo judge` and its audit, as commands on a real Ray."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from judge.shards import read_pairs
from judge.types import PairShard
from rollout.shards import find_shards

pytestmark = pytest.mark.integration
ROOT = Path(__file__).parents[2]
CODE = """
def longer(prompts, completions_a, completions_b, **columns):
    lengths = [(len(a[0]["content"]), len(b[0]["content"])) for a, b in zip(completions_a, completions_b)]
    return [0.5 if a == b else 0.9 if a > b else 0.1 for a, b in lengths]

def first(prompts, completions_a, completions_b, **columns):
    return [1.0] * len(prompts)
"""


def rondo(folder, *args):
    command = [sys.executable, "-m", "orchestrator.cli", *args]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "own_judges.py").write_text(CODE)
    for name in ("longer", "first"):
        (tmp_path / f"{name}.yaml").write_text(
            f"judge: {{kind: function, target: 'own_judges:{name}', style: pairwise}}\n"
            "prompts: {path: nowhere, num_per_round: 100}\n"
        )
    return tmp_path


def test_completions_that_exist_become_the_shards_of_a_run(folder):
    rows = [{"prompt": f"q{n}", "completions": ["a", "a b c", "a b"][: 1 + n % 3]} for n in range(9)]
    (folder / "groups.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ("judge", "longer.yaml", "--groups", "groups.jsonl", "--out", "out", "--json")
    found = rondo(folder, *args)
    assert (found["num_prompts"], found["num_pairs"], found["num_rejected"]) == (9, 6, {"too_few": 3})
    [shard] = find_shards(folder / "out", "rounds/0000/pairs", PairShard)
    pairs = read_pairs(folder / "out", shard)
    assert {(pair.chosen, pair.rejected) for pair in pairs} == {("a b c", "a")}
    before = (folder / "out" / shard.path).stat().st_mtime_ns
    assert rondo(folder, *args)["num_pairs"] == 6
    assert (folder / "out" / shard.path).stat().st_mtime_ns == before, "what was finished is not judged again"


def test_an_audit_tells_a_judge_that_follows_the_labels_from_one_that_takes_the_first(folder):
    pairs = [("long answer", "short"), ("short", "long answer")]
    rows = [{"prompt": f"q{n}", "a": pairs[n % 2][0], "b": pairs[n % 2][1], "label": "ab"[n % 2]} for n in range(40)]
    (folder / "labels.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    good, biased = (
        rondo(folder, "judge", "audit", f"{name}.yaml", "--labels", "labels.jsonl", "--json")
        for name in ("longer", "first")
    )
    assert good["agreement"]["mean"] == 1.0
    assert good["kappa"] == pytest.approx(1.0)
    assert good["position"]["changed"]["num"] == 0
    assert biased["agreement"]["mean"] == 0.5
    assert biased["kappa"] == pytest.approx(0.0)
    assert biased["position"]["changed"]["mean"] == 1.0
    assert biased["position"]["first_minus_second"] == 1.0
