from pathlib import Path

import pytest

from orchestrator.changes import changed, flatten
from orchestrator.config import RunConfig, load_config, parse_config
from rollout.errors import UsageError

ROOT = Path(__file__).parents[2]
MINIMAL = {"policy": {"path": "x"}, "prompts": {"path": "p.jsonl"}, "judge": {"target": "m:f"}}


def refusal(tree, tmp_path=None):
    with pytest.raises(UsageError) as caught:
        parse_config(tree, origin="file.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_file_in_configs_loads(path):
    load_config(path)


def test_defaults_are_those_of_the_field():
    config = parse_config(MINIMAL, origin="x")
    assert (config.learner.beta, config.learner.learning_rate, config.learner.num_epochs) == (0.1, 5e-7, 1)
    assert (config.learner.batch_pairs, config.learner.reference) == (64, "base")


def test_a_misspelt_key_is_named_with_the_nearest_known_one():
    text = refusal({**MINIMAL, "learner": {"lerning_rate": 1e-6}})
    assert text == "file.yaml: unknown key learner.lerning_rate, did you mean learner.learning_rate?"


def test_a_wrong_value_says_what_it_got():
    assert "learner.beta" in refusal({**MINIMAL, "learner": {"beta": -1}})
    assert "got -1" in refusal({**MINIMAL, "learner": {"beta": -1}})


@pytest.mark.parametrize("temperature", [-1, 0.001, 2.5])
def test_a_temperature_that_the_engine_would_change_is_refused(temperature):
    assert f"got {temperature}" in refusal({**MINIMAL, "rollout": {"temperature": temperature}})


def test_engines_that_cannot_be_are_refused():
    assert "min_engines is 3, more than num_engines, 2" in refusal(
        {**MINIMAL, "rollout": {"num_engines": 2, "min_engines": 3}}
    )
    assert "rollout.engine" in refusal({**MINIMAL, "rollout": {"engine": "vllmm"}})


def test_a_missing_section_is_named():
    assert "judge is missing" in refusal({"policy": {"path": "x"}, "prompts": {"path": "p"}})


def test_a_policy_has_one_origin():
    assert "policy.scratch" in refusal({**MINIMAL, "policy": {}})


def test_exponents_without_a_point_are_numbers(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("policy: {path: x}\nprompts: {path: p}\njudge: {target: 'm:f'}\nlearner: {learning_rate: 5e-7}\n")
    assert load_config(file).learner.learning_rate == 5e-7
    assert load_config(file, ["learner.learning_rate=1e-6"]).learner.learning_rate == 1e-6


def test_overrides_reach_nested_keys_and_are_checked(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("policy: {path: x}\nprompts: {path: p}\njudge: {target: 'm:f'}\n")
    assert load_config(file, ["judge.pairing.min_margin=0.5"]).judge.pairing.min_margin == 0.5
    with pytest.raises(UsageError, match=r"expected a[.]b=value"):
        load_config(file, ["judge"])
    with pytest.raises(UsageError, match="seed is a value, not a section"):
        load_config(file, ["seed=3", "seed.x=1"])


@pytest.mark.parametrize(("text", "problem"), [("a: [", "not YAML"), ("- 1", "holds list"), (None, "does not exist")])
def test_a_file_that_is_no_configuration_is_refused_in_one_line(tmp_path, text, problem):
    file = tmp_path / "c.yaml"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=problem) as caught:
        load_config(file)
    assert "\n" not in str(caught.value)


def test_every_field_is_documented_and_marked():
    def fields(model):
        for name, field in model.model_fields.items():
            yield f"{model.__name__}.{name}", field

    config = parse_config(MINIMAL, origin="x")
    assert {mark for mark, _ in flatten(config).values()} == {"identity", "per_round", "operational"}
    assert all(field.description for _, field in fields(RunConfig))


def test_changes_are_sorted_by_when_they_may_happen():
    old = parse_config(MINIMAL, origin="x")
    new = parse_config({**MINIMAL, "seed": 3, "num_rounds": 9, "learner": {"beta": 0.5}}, origin="x")
    found = changed(old, new)
    assert found["identity"] == ["seed: 17 -> 3"]
    assert found["per_round"] == ["learner.beta: 0.1 -> 0.5"]
    assert found["operational"] == ["num_rounds: 3 -> 9"]
