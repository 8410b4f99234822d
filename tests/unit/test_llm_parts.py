"""The pieces of the language-model judge: rubrics, bad input, pauses, limits, breaker, budget ledger, verdict store."""

import asyncio
import email.utils
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from pydantic import ValidationError

from judge.check import check_judge
from judge.llm.budget import budget_for
from judge.llm.check import check_llm
from judge.llm.config import BudgetConfig, LlmBackend
from judge.llm.failures import retry_after_s
from judge.llm.limits import Breaker, Pacer
from judge.llm.request import make_request
from judge.llm.rubric import BUILT_IN, load_rubric
from judge.store import Cost, VerdictStore
from rollout.errors import DataError, UsageError

GOOD = {
    "version": 3,
    "principles": ["Be kind.", "Be brief."],
    "pairwise": {
        "instructions": "Judge by {principles} in {{braces}}",
        "question": "{conversation}\n{answer_a}\n{answer_b}",
    },
}


def rubric_file(tmp_path, **changes):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return str(path)


def refusal(call, *args, **kwargs):
    with pytest.raises(UsageError) as refused:
        call(*args, **kwargs)
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize(("style", "method"), [("pairwise", "logprobs"), ("pairwise", "json"), ("pointwise", "json")])
def test_every_built_in_rubric_is_complete(name, style, method):
    rubric = load_rubric(name, style=style, method=method)
    names = ("conversation", "answer_a", "answer_b", "answer")
    system, user = rubric.render({part: f"<{part}>" for part in names})
    assert rubric.signature.startswith(f"{name}-v1-")
    assert all(f"<{part}>" in user["content"] for part in names[: 3 if style == "pairwise" else 1])
    assert not set("{}") & set(system["content"] + user["content"])
    assert ("1 to 10" in user["content"]) == (style == "pointwise")


def test_a_template_of_ones_own_is_rendered_and_named_by_its_text(tmp_path):
    rubric = load_rubric(rubric_file(tmp_path), style="pairwise", method="logprobs")
    system, user = rubric.render({"conversation": "{answer_a}", "answer_a": "1", "answer_b": "2"})
    assert system["content"].startswith("Judge by 1. Be kind.\n2. Be brief. in {braces}\n\n")
    assert user["content"].startswith("{answer_a}\n1\n2\n\nWhich answer is better?")
    other = load_rubric(rubric_file(tmp_path, principles=["Be kind."]), style="pairwise", method="logprobs")
    newer = load_rubric(rubric_file(tmp_path, version=4), style="pairwise", method="logprobs")
    assert len({rubric.signature, other.signature, newer.signature}) == 3


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pairwise": {**GOOD["pairwise"], "question": "{conversation} {answer_a}"}}, "{answer_b} 0 times"),
        ({"pairwise": {**GOOD["pairwise"], "question": "{conversation} {answer_a} {answer_a} {answer_b}"}}, "2 times"),
        ({"pairwise": {**GOOD["pairwise"], "question": "{conversation} {answer_a} {answer_b} {x}"}}, "{x}"),
        ({"pairwise": {**GOOD["pairwise"], "question": "{conversation} {answer_a!r} {answer_b}"}}, "{answer_a}"),
        ({"pairwise": {**GOOD["pairwise"], "question": "{conversation} {answer_a} {answer_b"}}, "for braces"),
        ({"pairwise": {**GOOD["pairwise"], "instructions": "Judge."}}, "{principles} 0 times"),
        ({"principles": []}, "{principles}"),
        ({"principles": "Be kind."}, "list of sentences"),
        ({"pairwise": {"instructions": "Judge."}}, "no usable section 'pairwise'"),
        ({"version": None}, "no version"),
    ],
)
def test_a_template_that_cannot_work_is_refused_by_name(tmp_path, changes, words):
    line = refusal(load_rubric, rubric_file(tmp_path, **changes), style="pairwise", method="logprobs")
    assert words in line
    assert "mine.yaml" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"endpoint": None}, "environment variable OPENAI_API_KEY is empty"),
        ({"endpoint": "http://judge.example/v1"}, "environment variable OPENAI_API_KEY is empty"),
        ({"api_key_env": "MY_KEY"}, "environment variable MY_KEY is empty"),
        ({"api_key_file": "nowhere.key"}, "nowhere.key cannot be read"),
        ({"endpoint": "localhost:8000"}, "expected a base URL"),
        ({"endpoint": "http://user:hidden@127.0.0.1/v1"}, "carries a password"),
        ({"rubric": "kindness"}, "neither helpfulness"),
        ({"extra_body": {"stream": True}}, "['stream']"),
        ({"extra_body": {"x": float("nan")}}, "cannot be sent as JSON"),
        ({"extra_body": {"max_tokens": None}, "budget": {"tokens": 5}}, "length of a reply open"),
    ],
)
def test_bad_input_is_refused_in_one_line(monkeypatch, changes, words):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = LlmBackend(**{"model": "m", "endpoint": "http://127.0.0.1:1/v1", **changes})
    line = refusal(check_judge, config)
    assert words in line
    assert "hidden" not in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": {"requests": 0}}, "greater than 0"),
        ({"budget": {"money": 1.0}}, "price_input"),
        ({"style": "pointwise"}, "needs method: json"),
        ({"num_samples": 2}, "use method: json"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        LlmBackend(**{"model": "m", **changes})


def test_a_local_server_needs_no_key_and_a_file_may_hold_one(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    check_llm(LlmBackend(model="m", endpoint="http://localhost:8000/v1"))
    path = tmp_path / "key"
    path.write_text("sk-1\n")
    check_llm(LlmBackend(model="m", api_key_file=str(path)))
    path.write_text("sk-1 sk-2")
    assert "sk-1" not in refusal(check_llm, LlmBackend(model="m", api_key_file=str(path)))


def test_checking_a_judge_loads_no_client():
    code = "import sys, judge.check, judge.llm.check; print({'openai', 'aiohttp', 'torch'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "set()"


def test_further_fields_win_and_null_drops_one():
    rubric = load_rubric("helpfulness", style="pairwise", method="logprobs")
    extra = {"max_tokens": None, "max_completion_tokens": 5, "logit_bias": {"1": 2}}
    request = make_request(LlmBackend(model="m", extra_body=extra), rubric, [])
    sent = json.loads(request.body)
    assert "max_tokens" not in sent
    assert (sent["max_completion_tokens"], sent["logit_bias"], request.max_completion_tokens) == (5, {"1": 2}, 5)


def test_retry_after_is_read_in_seconds_and_as_a_date():
    now = datetime(2026, 5, 1, 12, 0, 0, tzinfo=UTC)
    later = email.utils.format_datetime(now + timedelta(seconds=90), usegmt=True)
    earlier = email.utils.format_datetime(now - timedelta(seconds=90), usegmt=True)
    headers = [{"retry-after": "7"}, {"retry-after": later}, {"retry-after": earlier}, {"retry-after-ms": "250"}]
    assert [retry_after_s(each, now=now) for each in headers] == [7.0, 90.0, 0.0, 0.25]
    assert [retry_after_s(each, now=now) for each in [{}, {"retry-after": "soon"}]] == [None, None]


def test_a_pacer_lets_no_more_pass_in_a_minute_than_it_may():
    pacer = Pacer(per_minute=600)
    starts = [pacer.wait_s(1, now_s=100.0) for _ in range(611)]
    assert starts[:11] == [0.0] * 11, "one second's worth at once"
    assert starts[-1] == pytest.approx(60.0)
    pacer.settle(100)
    assert pacer.wait_s(5000, now_s=100.0) == pytest.approx(60.1 - 10.0), "a large request passes, later"
    assert pacer.wait_s(1, now_s=100.0) == pytest.approx(550.1)


async def test_the_breaker_opens_probes_and_gives_up():
    loop = asyncio.get_running_loop()
    breaker = Breaker(threshold=3, max_probes=2, max_pause_s=0.2)
    far = loop.time() + 60
    for _ in range(3):
        assert await breaker.admit(far) is False
        breaker.failed("refused", probe=False)
    waiting = [asyncio.create_task(breaker.admit(far)) for _ in range(5)]
    await asyncio.sleep(0.25)
    assert [task.done() and task.result() for task in waiting].count(True) == 1, "one request probes"
    breaker.failed("refused", probe=True)
    await asyncio.sleep(0.25)
    assert sum(task.done() for task in waiting) == 2
    breaker.failed("refused again", probe=True)
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(each, DataError) and "refused again" in each.detail for each in found) == 3
    with pytest.raises(DataError, match="endpoint_failed"):
        await breaker.admit(far)
    breaker.revive()
    assert await breaker.admit(far) is True, "other work tries again at once"
    breaker.failed("refused", probe=True)
    assert await breaker.admit(far) is True
    breaker.failed("refused", probe=True)
    await asyncio.sleep(0.25)
    assert await breaker.admit(far) is True, "and after the pause anyone does"
    breaker.succeeded()
    assert await breaker.admit(far) is False


async def test_an_abandoned_probe_lets_another_one_go_and_waiting_has_a_deadline():
    loop = asyncio.get_running_loop()
    breaker = Breaker(threshold=1, max_probes=5, max_pause_s=0.01)
    breaker.failed("x", probe=False)
    assert await breaker.admit(loop.time() + 60) is True
    with pytest.raises(DataError, match="deadline"):
        await breaker.admit(loop.time() + 0.02)
    waiting = asyncio.create_task(breaker.admit(loop.time() + 60))
    await asyncio.sleep(0)
    breaker.abandoned()
    assert await waiting is True


async def test_a_budget_waits_for_what_is_under_way_before_it_refuses(tmp_path):
    budget = budget_for(BudgetConfig(tokens=100), tmp_path, judge="a/b", actor=0, num_actors=1)
    budget.start({})
    far = asyncio.get_running_loop().time() + 60
    large, small = Cost(requests=1, tokens=90), Cost(requests=1, tokens=20)
    await budget.reserve(large, far)
    waiting = asyncio.create_task(budget.reserve(large, far))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    budget.settle(large, Cost(requests=1, tokens=5))
    await waiting
    budget.settle(large, Cost(requests=1, tokens=85))
    with pytest.raises(DataError, match="budget_spent"):
        await budget.reserve(small, far)
    await budget.reserve(Cost(tokens=10), far)


def test_actors_share_a_ledger_and_a_restarted_one_gives_back_what_it_leased(tmp_path):
    def actor(number, spent, num_actors=2):
        budget = budget_for(BudgetConfig(requests=40), tmp_path, judge="j", actor=number, num_actors=num_actors)
        budget.start(spent)
        return budget

    async def spend(budget):
        count = 0
        try:
            while True:
                await budget.reserve(Cost(requests=1), 0.0)
                budget.settle(Cost(requests=1), Cost(requests=1))
                count += 1
        except DataError:
            return count

    first, second = actor(0, {}), actor(1, {})
    asyncio.run(first.reserve(Cost(requests=1), 0.0))
    first.settle(Cost(requests=1), Cost(requests=1))
    assert asyncio.run(spend(second)) == 38, "one is spent, and one more leased by the first"
    first = actor(0, {0: Cost(requests=1), 1: Cost(requests=38)})
    assert asyncio.run(spend(first)) == 1
    fewer = actor(0, {0: Cost(requests=2), 1: Cost(requests=30)}, num_actors=1)
    assert asyncio.run(spend(fewer)) == 8


async def test_a_store_keeps_answers_and_spending_and_passes_over_a_torn_line(tmp_path):
    keys = [f"{number:064x}" for number in range(4)]
    mine, other = VerdictStore(tmp_path, judge="j", actor=0), VerdictStore(tmp_path, judge="j", actor=1)
    mine.put(keys[0], {"text": "é" * 10_000}, Cost(requests=1, tokens=3))
    mine.spend(Cost(requests=2, money=0.5))
    other.refresh()
    assert other.get(keys[0]) == {"text": "é" * 10_000}
    assert mine.get(keys[0]) == {"text": "é" * 10_000}
    mine.put(keys[1], {"text": "later"}, Cost(requests=1))
    assert other.get(keys[1]) is None
    other.refresh()
    assert other.get(keys[1]) == {"text": "later"}
    assert other.spent() == {0: Cost(requests=4, tokens=3, money=0.5)}
    await mine.close()
    [path] = tmp_path.glob("*.jsonl")
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    again = VerdictStore(tmp_path, judge="j", actor=0)
    again.refresh()
    assert again.get(keys[1]) is None
    again.put(keys[2], {"text": "new"}, Cost())
    assert again.get(keys[2]) == {"text": "new"}
    assert len(list(tmp_path.glob("*.jsonl"))) == 2, "nothing is written behind a torn line"
    path.write_bytes(whole.replace(b'"requests":2', b'"requests"'))
    spoilt = VerdictStore(tmp_path, judge="k", actor=0)
    spoilt.refresh()
    assert dict(spoilt.num_unreadable) == {path.name: 1}
    assert spoilt.get(keys[1]) == {"text": "later"}
    assert spoilt.spent() == {}
    await again.close()


def test_a_server_of_this_machine_needs_no_key_also_once_the_configuration_was_resolved(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    config = LlmBackend(model="m", endpoint="http://127.0.0.1:1/v1")
    check_judge(LlmBackend.model_validate(config.model_dump(mode="json")))
