"""Bad input is refused in one line with exit code 2, before Ray is started, and leaves no half-made run."""

import importlib.util
import json
import os
import sys

import pytest
import yaml

from orchestrator import cli
from tests.support.tiny_policy import make_tiny_policy


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def tree(policy, tmp_path, monkeypatch):
    """A good configuration in a folder of the user's own; each test spoils one thing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("orchestrator.run.start_ray", lambda config: pytest.fail("Ray was started"))
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(8)))
    return {
        "policy": {"path": str(policy), "dtype": "float32"},
        "prompts": {"path": "prompts.jsonl", "num_per_round": 4},
        "rollout": {"max_new_tokens": 8},
        "judge": {"target": "tests.support.tiny_judge:score"},
    }


def refused(tree, capfd, monkeypatch, *arguments):
    """Run the command in-process; its one line on standard error."""
    with open("config.yaml", "w") as file:
        yaml.safe_dump(tree, file)
    monkeypatch.setattr(sys, "argv", ["rondo", "run", "config.yaml", "--run-dir", "run", *arguments])
    capfd.readouterr()  # what the making of policies printed
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capfd.readouterr()
    assert ended.value.code == 2, err
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    assert not os.path.exists("run"), "a half-made run was left behind"
    return err


def test_a_misspelt_key(tree, capfd, monkeypatch):
    assert "did you mean prompts.num_per_round?" in refused(
        {**tree, "prompts": {"path": "prompts.jsonl", "num_per_rond": 4}}, capfd, monkeypatch
    )


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"rank": 0}, "learner.lora.rank: input should be greater than or equal to 1, got 0"),
        ({"targets": ["q_prj"]}, "learner.lora.targets: q_prj is no linear layer of the policy, expected all-linear"),
        ({"publish": "adapter", "targets": ["lm_head"]}, "lm_head is no linear layer of the policy"),
        ({"publish": "adapter", "modules_to_save": ["lm_head"]}, "unknown key learner.lora.modules_to_save"),
        ({"quantize": "nf4"}, "learner.lora.quantize: nf4 needs bitsandbytes, which is not installed"),
    ],
)
def test_an_adapter_that_cannot_be_trained_or_loaded(tree, capfd, monkeypatch, lora, said):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    assert said in refused({**tree, "learner": {"lora": lora}}, capfd, monkeypatch)


def test_a_missing_prompt_file(tree, capfd, monkeypatch):
    assert "nowhere.jsonl" in refused({**tree, "prompts": {"path": "nowhere.jsonl"}}, capfd, monkeypatch)


def test_an_empty_prompt_file(tree, capfd, monkeypatch):
    open("prompts.jsonl", "w").close()
    assert "empty" in refused(tree, capfd, monkeypatch)


def test_a_line_that_is_no_json_is_named_by_its_number(tree, capfd, monkeypatch):
    with open("prompts.jsonl", "a") as file:
        file.write("{not json\n")
    text = refused(tree, capfd, monkeypatch)
    assert "prompts.jsonl" in text
    assert "9" in text


def test_no_prompt_that_fits(tree, capfd, monkeypatch):
    with open("prompts.jsonl", "w") as file:
        file.write("".join(json.dumps({"prompt": f"{n} " + "long " * 600}) + "\n" for n in range(4)))
    assert "prompt_too_long" in refused(tree, capfd, monkeypatch)


def test_fewer_prompts_than_a_round_draws(tree, capfd, monkeypatch):
    assert "8 usable prompts" in refused(
        {**tree, "prompts": {"path": "prompts.jsonl", "num_per_round": 9}}, capfd, monkeypatch
    )


def test_training_and_held_out_prompts_that_overlap(tree, capfd, monkeypatch):
    assert "held out" in refused({**tree, "evaluation": {"prompts": "prompts.jsonl"}}, capfd, monkeypatch)


@pytest.mark.parametrize("name", ["judge.py", "rollout/__init__.py"])
def test_a_module_of_the_users_that_shadows_a_package(tree, capfd, monkeypatch, name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("def score(prompts, completions): ...\n")
    assert "shadows Rondo's package" in refused(tree, capfd, monkeypatch)


@pytest.mark.parametrize("target", ["no_such_module:score", "tests.support.tiny_judge:nothing", "nocolon"])
def test_a_judge_that_cannot_be_imported(tree, capfd, monkeypatch, target):
    assert target.split(":")[0] in refused({**tree, "judge": {"target": target}}, capfd, monkeypatch)


def test_a_policy_that_is_no_folder(tree, capfd, monkeypatch):
    assert "./nowhere is not a folder" in refused({**tree, "policy": {"path": "./nowhere"}}, capfd, monkeypatch)


@pytest.mark.parametrize(
    ("missing", "named"),
    [("tokenizer.json", "tokenizer"), ("chat_template.jinja", "chat template"), ("model.safetensors", "safetensors")],
)
def test_a_policy_folder_that_lacks_something(tree, capfd, monkeypatch, tmp_path, missing, named):
    folder = make_tiny_policy(tmp_path / "policy")
    (folder / missing).unlink()
    if missing == "tokenizer.json":
        (folder / "tokenizer_config.json").unlink()
    assert named in refused({**tree, "policy": {"path": str(folder)}}, capfd, monkeypatch)


def test_a_run_directory_that_cannot_be_written(tree, capfd, monkeypatch):
    # A file where the folder's parent should be: root may write into any folder, but not into a file.
    open("file", "w").close()
    assert "cannot be written" in refused(tree, capfd, monkeypatch, "--run-dir", "file/run")


def test_a_run_directory_of_a_ray_jobs_own(tree, capfd, monkeypatch):
    text = refused(tree, capfd, monkeypatch, "--run-dir", "/tmp/ray/session/runtime_resources/working_dir_files/run")
    assert "shared disk" in text


def test_an_override_that_is_none(tree, capfd, monkeypatch):
    assert "expected a.b=value" in refused(tree, capfd, monkeypatch, "--set", "seed")
