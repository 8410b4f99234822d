"""A class of the user as a judge, and what is refused about a target before anything runs."""

import math

import pytest
from pydantic import BaseModel, ValidationError

from judge.config import FunctionJudge
from judge.function import build_function
from judge.target import check_target, judge_id
from judge.types import Score, Verdict
from rollout.errors import UsageError
from tests.support.tiny_groups import make_group

GROUP = make_group(["yes", "no", "perhaps"], answer="yes", level=3)
HERE = "tests.unit.test_judge_targets"


class Longest:
    """A class judge with settings of its own."""

    source = "verifier"

    class Settings(BaseModel):
        bonus: float = 0.0

    def __init__(self, settings):
        self.bonus = settings.bonus

    async def score(self, group):
        return [
            Score(
                prompt_id=group.prompt.prompt_id,
                index=c.index,
                value=len(c.text) + self.bonus if c.text else None,
                judge_id="mine",
                source="verifier",
            )
            for c in reversed(group.completions)
        ]


class Plain:
    def __init__(self, verdicts):
        self.verdicts = verdicts

    def judge(self, group, wanted):
        return [
            Verdict(
                **({"prompt_id": group.prompt.prompt_id, "judge_id": "mine", "source": "llm", "p_a": None} | verdict)
            )
            for verdict in self.verdicts
        ]


class Needy:
    def __init__(self):
        raise OSError("no key")

    def score(self, group):
        return []


async def test_a_class_is_built_from_validated_settings_and_its_answers_are_put_in_order():
    config = FunctionJudge(target=f"{HERE}:Longest", settings={"bonus": 0.5})
    scores = await build_function(config).score_group(GROUP)
    assert [(s.index, s.value, s.judge_id) for s in scores] == [(0, 3.5, "mine"), (1, 2.5, "mine"), (2, 7.5, "mine")]


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([{"a": 1, "b": 2, "outcome": "b"}, {"a": 0, "b": 1, "outcome": "a", "p_a": 0.75}], [("a", ""), ("b", "")]),
        ([{"a": 0, "b": 1, "outcome": "a"}], [("abstain", "judge_wrong_count")] * 2),
        ([{"a": 0, "b": 1, "outcome": "a"}] * 2, [("abstain", "judge_wrong_count")] * 2),
        (
            [{"a": a, "b": b, "outcome": "a"} for a, b in [(0, 1), (1, 2), (0, 1)]],
            [("abstain", "judge_wrong_count")] * 2,
        ),
        (
            [{"a": 0, "b": 1, "outcome": "A"}, {"a": 1, "b": 2, "outcome": "both_bad"}],
            [("abstain", "judge_wrong_type"), ("both_bad", "")],
        ),
        (
            [{"a": 0, "b": 1, "outcome": "a", "p_a": 0.2}, {"a": 1, "b": 2, "outcome": "abstain", "reason": "refused"}],
            [("abstain", "judge_contradiction"), ("abstain", "refused")],
        ),
        (
            [{"a": 0, "b": 1, "outcome": "a", "p_a": math.nan}, {"a": 1, "b": 2, "outcome": "b", "p_a": -1.0}],
            [("abstain", "judge_not_finite"), ("abstain", "judge_out_of_range")],
        ),
        (
            [{"a": 0, "b": 1, "outcome": "a", "prompt_id": "x"}, {"a": 1, "b": 2, "outcome": "b"}],
            [("abstain", "judge_wrong_type")] * 2,
        ),
        ([{"a": [], "b": 1, "outcome": "a"}, {"a": 1, "b": 2, "outcome": "b"}], [("abstain", "judge_wrong_type")] * 2),
    ],
)
async def test_verdicts_of_a_class_are_held_to_what_was_asked(verdicts, expected):
    config = FunctionJudge(target=f"{HERE}:Plain", style="pairwise", settings={"verdicts": verdicts})
    given = await build_function(config).judge_group(GROUP, [(0, 1), (1, 2)])
    assert [(v.outcome, v.reason) for v in given] == expected
    assert [(v.a, v.b) for v in given] == [(0, 1), (1, 2)]
    assert all(v.p_a is None for v in given if v.outcome == "abstain")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "no_such_module_here:score"}, "no_such_module_here"),
        ({"target": f"{HERE}:nothing"}, "nothing"),
        ({"target": f"{HERE}:HERE"}, "is a str"),
        ({"target": f"{HERE}:Plain"}, "no method 'score'"),
        ({"target": f"{HERE}:Longest", "style": "pairwise"}, "no method 'judge'"),
        ({"target": f"{HERE}:Longest", "settings": {"bonus": "much"}}, "bonus"),
        ({"target": f"{HERE}:Plain", "style": "pairwise", "settings": {"x": 1}}, "verdicts"),
        ({"target": "tests.unit.test_function_judge:raiser", "settings": {"completions": 1}}, "completions"),
        ({"target": "tests.unit.test_function_judge:raiser", "settings": {"eror": 1}}, "eror"),
    ],
)
def test_a_target_that_cannot_work_is_refused_before_anything_runs(options, message):
    with pytest.raises(UsageError, match=message):
        check_target(FunctionJudge(**options))


def test_a_module_that_fails_while_it_is_imported_is_the_users_to_mend(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken_rewards.py").write_text("1 / 0")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        check_target(FunctionJudge(target="broken_rewards:score"))


def test_a_constructor_that_fails_is_named():
    check_target(FunctionJudge(target=f"{HERE}:Needy"))
    with pytest.raises(UsageError, match="OSError: no key"):
        build_function(FunctionJudge(target=f"{HERE}:Needy"))


@pytest.mark.parametrize("target", ["", "score", "my_rewards", "my rewards:score", ":score", "my_rewards:", "a:b:c"])
def test_a_target_without_module_and_name_is_refused_by_the_configuration(target):
    with pytest.raises(ValidationError, match="module:name"):
        FunctionJudge(target=target)


@pytest.mark.parametrize("options", [{"comparisons": "random_k"}, {"num_comparisons": 3}])
def test_random_k_and_its_k_go_together(options):
    with pytest.raises(ValidationError, match="num_comparisons"):
        FunctionJudge(target="a:b", **options)


def test_the_judge_id_follows_source_and_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "stable_rewards.py"
    source.write_text("def score(completions, weight=1): return [0.0 for _ in completions]\n")
    config = FunctionJudge(target="stable_rewards:score")
    first = judge_id(config)
    assert first.startswith("function:stable_rewards:score@")
    assert judge_id(config.model_copy(update={"timeout_s": 1.0})) == first
    assert judge_id(config.model_copy(update={"settings": {"weight": 2}})) != first
    source.write_text(source.read_text() + "# changed\n")
    assert judge_id(config) != first
