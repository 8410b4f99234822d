"""`rondo reward-model fit`: its options reach the trainer, its report a person or a script, its errors one line."""

import io
import json
import sys

import pytest
from rich.console import Console

from orchestrator import bench_reward, cli
from orchestrator.reward_model import fit, page
from rollout.errors import UsageError
from tests.support.tiny_policy import make_tiny_policy

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("command") / "policy")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("command") / "pairs.jsonl"
    rows = [{"prompt": f"say {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(20)]
    rows.append({"prompt": "x", "chosen": None, "rejected": "b"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rondo(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["rondo", *map(str, arguments)])
    with pytest.raises(SystemExit) as done:
        cli.main()
    return done.value.code


def test_one_object_on_standard_output_and_progress_beside_it(policy, pairs, tmp_path, monkeypatch, capsys):
    options = ["--epochs", 2, "--batch-pairs", 4, "--held-out-share", 0.2, "--seed", 3, "--max-pairs", 10, "--json"]
    assert rondo(monkeypatch, "reward-model", "fit", pairs, "--model", policy, "--out", tmp_path / "out", *options) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert (report["num_pairs"], report["held_out"]["num_pairs"], report["num_steps"]) == (8, 2, 4)
    assert report["dropped"] == {"over_max_pairs": 10, "unpaired": 1}
    assert report["settings"]["seed"] == 3
    assert "step 4/4" in captured.err
    assert (tmp_path / "out/model.safetensors").is_file()


def test_a_person_reads_accuracy_calibration_and_what_was_left_out(policy, pairs, tmp_path):
    out = io.StringIO()
    report = fit(
        [str(pairs)],
        model=str(policy),
        out=tmp_path / "out",
        console=Console(quiet=True),
        held_out_share=0.3,
        seed=None,
    )
    Console(file=out, width=100).print(page(report))
    for word in ("14 pairs of 14 prompts", "unpaired 1", "accuracy", "Brier", "best temperature"):
        assert word in out.getvalue()
    report = fit([str(pairs)], model=str(policy), out=tmp_path / "all", console=Console(quiet=True), held_out_share=0.0)
    Console(file=out, width=100).print(page(report))
    assert "accuracy is not known" in out.getvalue()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_epochs": 0}, "--epochs is 0"),
        ({"held_out_share": 1.0}, "--held-out-share is 1.0"),
        ({"model": "/nowhere/at/all"}, "--model /nowhere/at/all is not a folder"),
        ({"sources": ["/nowhere.jsonl"]}, "/nowhere.jsonl does not exist"),
    ],
)
def test_bad_input_is_refused_in_one_line(changed, message, policy, pairs, tmp_path):
    given = {"sources": [str(pairs)], "model": str(policy), "out": tmp_path / "out", **changed}
    with pytest.raises(UsageError) as refused:
        fit(given.pop("sources"), console=Console(quiet=True), **given)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.iterdir())


def test_the_bench_holds_the_judge_against_the_same_scores(monkeypatch):
    monkeypatch.setattr(bench_reward, "_NUM_PROMPTS", 2)
    found = bench_reward.bench_reward(num_pairs=2)
    (row,) = found["rows"]
    assert (found["bench"], row["unit"], row["floor"]) == ("reward", "rows/s", 0.9)
    assert row["ratio"] > 0
