"""One judge section, many kinds: found by name or by an installed package, and refused in one line."""

import pytest

from judge.backend import build
from judge.check import check_judge
from judge.config import CascadeJudge, FunctionJudge, PluginJudge, as_judge, parse_judge
from judge.protocol import Context, Question
from orchestrator.config import load_config, parse_config
from rollout.errors import UsageError
from tests.support.tiny_groups import make_group

MINIMAL = {"policy": {"path": "x"}, "prompts": {"path": "p.jsonl"}}
FUNCTION = {"kind": "function", "target": "m:f"}
PLUGIN = '''
from judge.types import Verdict

class Longest:
    """A judge of an installed package."""

    def __init__(self, bonus: int = 0):
        self.bonus = bonus

    async def judge(self, group, wanted):
        size = {one.index: len(one.text) for one in group.completions}
        return [
            Verdict(
                prompt_id=group.prompt.prompt_id, a=a, b=b, outcome="a" if size[a] + self.bonus > size[b] else "b",
                p_a=None, judge_id="longest", source="function",
            )
            for a, b in wanted
        ]
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with a judge, as pip would have installed it."""
    (tmp_path / "acme_judges.py").write_text(PLUGIN)
    info = tmp_path / "acme_judges-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-judges\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rondo.judges]\nlongest = acme_judges:Longest\n")
    monkeypatch.syspath_prepend(str(tmp_path))


def refusal(judge):
    with pytest.raises(UsageError) as caught:
        parse_config({**MINIMAL, "judge": judge}, origin="my.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_function_is_the_kind_where_none_is_named():
    assert isinstance(parse_config({**MINIMAL, "judge": {"target": "m:f"}}, origin="x").judge, FunctionJudge)


@pytest.mark.parametrize(
    ("judge", "message"),
    [
        ({"kind": "lmm"}, "judge: kind is 'lmm', did you mean llm?"),
        ({"kind": "nope"}, "or an entry point of an installed package in the group rondo.judges (found: none)"),
        ({"kind": "llm", "model": "x", "modle": "y"}, "unknown key judge.modle, did you mean judge.model?"),
        ({"kind": "llm"}, "judge.model is missing"),
        ({"kind": "llm", "model": "x", "budget": {"requests": 0}}, "judge.budget.requests: input should be greater"),
        ({"kind": "llm", "model": "x", "budget": {"money": 1.0}}, "needs price_input or price_output"),
        ({"kind": "llm", "model": "x", "num_samples": 3}, "num_samples is 3 with method: logprobs"),
        ({"kind": "cascade", "judges": [FUNCTION]}, "judge.judges: tuple should have at least 2 items"),
        ({"kind": "ensemble", "judges": [FUNCTION, {"kind": "llm"}]}, "judge.judges.1.model is missing"),
        ({**FUNCTION, "fallback": {"kind": "function"}}, "judge.fallback.target is missing"),
        ({"kind": "preference_model", "model": "x", "template": "{prompt}{a}"}, "template holds {b} 0 times"),
    ],
)
def test_a_wrong_judge_is_refused_where_the_user_wrote_it(judge, message):
    assert message in refusal(judge)


def test_a_judge_made_of_judges_keeps_their_settings():
    judges = [FUNCTION, {"kind": "llm", "model": "x", "budget": {"tokens": 5}}]
    judge = parse_config({**MINIMAL, "judge": {"kind": "cascade", "judges": judges}}, origin="x").judge
    assert isinstance(judge, CascadeJudge)
    assert judge.judges[1].budget.tokens == 5
    assert parse_judge(judge.model_dump(mode="json")) == judge


def test_a_member_becomes_a_judge_of_its_own():
    gold = parse_config({**MINIMAL, "judge": FUNCTION, "evaluation": {"gold": FUNCTION}}, origin="x").evaluation.gold
    assert as_judge(gold) == FunctionJudge(target="m:f")


def test_settings_on_the_command_line_reach_every_kind(tmp_path):
    path = tmp_path / "my.yaml"
    path.write_text("policy: {path: x}\nprompts: {path: p}\njudge: {kind: llm, model: x}\n")
    config = load_config(path, ["judge.budget.tokens=7", "judge.concurrency=3"])
    assert (config.judge.budget.tokens, config.judge.concurrency) == (7, 3)


async def test_a_judge_of_an_installed_package_is_found_by_its_name(installed, tmp_path):
    judge = parse_config({**MINIMAL, "judge": {"kind": "longest", "style": "pairwise"}}, origin="x").judge
    assert isinstance(judge, PluginJudge)
    check_judge(judge)
    made = build(judge, Context(store_dir=tmp_path, salt="s"))
    [verdicts] = await made.judge([Question(group=make_group(["aa", "a"]), wanted=((0, 1), (1, 0)))])
    assert [verdict.outcome for verdict in verdicts] == ["a", "b"]
    assert made.judge_id.startswith("longest:acme_judges:Longest@")


def test_settings_of_an_installed_judge_are_checked(installed):
    judge = parse_judge({"kind": "longest", "style": "pairwise", "settings": {"bonsu": 1}})
    with pytest.raises(UsageError, match="bonsu"):
        check_judge(judge)
