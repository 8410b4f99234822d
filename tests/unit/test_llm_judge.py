"""The language-model judge against a server in the same event loop: verdicts, re-asking, counting, failing."""

import json
import math
import os
import socket

import pytest

from judge.config import LlmJudge
from judge.llm.stub import Reply, completion, serve
from judge.shards import read_pairs
from judge.types import FAILED_OVER
from judge.worker import JudgeWorker
from rollout.errors import InfraError, UsageError
from tests.support import fault_server
from tests.support.asked import config, llm, quality, question
from tests.support.tiny_groups import make_group, make_shard


@pytest.fixture
async def endpoint():
    """Starts servers that answer by a function; gives the base URL."""
    servers = []

    async def start(respond):
        server, url = await serve(respond)
        servers.append(server)
        return url

    yield start
    for server in servers:
        server.close()


def answers(*texts, top=None, usage=(10, 2)):
    """A server that gives these texts in turn, the last one for ever, and the bodies that it was sent."""
    left, bodies = list(texts), []

    def respond(path, body, headers):
        bodies.append(json.loads(body))
        text = left.pop(0) if len(left) > 1 else left[0]
        found = completion(text, top=top) if isinstance(text, str) else text
        if usage:
            found = found | {"usage": {"prompt_tokens": usage[0], "completion_tokens": usage[1]}}
        return Reply(body=json.dumps(found).encode())

    respond.bodies = bodies
    return respond


def verdict(label, reasoning="because"):
    return json.dumps({"reasoning": reasoning, "verdict": label})


async def judged(judge, *questions):
    await judge.start()
    try:
        found = await judge.judge(list(questions) or [question(1)])
    finally:
        await judge.close()
    return [each for one in found for each in one]


async def test_both_orders_are_asked_and_the_bias_towards_a_place_cancels(endpoint, tmp_path):
    url = await endpoint(fault_server.FaultServer(one_in=10**9))
    found = await judged(llm(url, tmp_path), *map(question, range(20)))
    for number, each in enumerate(found):
        a, b = quality(number, 0), quality(number, 1)
        first, second = (min(0.99, x / (a + b) + fault_server.BIAS) for x in (a, b))
        assert each.p_a == pytest.approx((first + 1 - second) / 2, abs=1e-9)
        assert each.outcome == ("tie" if a == b else "a" if a > b else "b")
        assert each.consistent == ((first > 0.5) != (second > 0.5))
    assert {each.outcome for each in found} == {"a", "b", "tie"}


async def test_a_preference_for_the_first_place_alone_is_exactly_a_tie(endpoint, tmp_path):
    url = await endpoint(answers("A", top={"A": math.log(0.7), "B": math.log(0.1)}))
    [each] = await judged(llm(url, tmp_path))
    assert (each.p_a, each.outcome, each.consistent) == (0.5, "tie", False)


async def test_samples_are_averaged_in_each_order(endpoint, tmp_path):
    start, ab, ba = "{}", [verdict("A"), verdict("tie")], [verdict("B"), verdict("B")]
    respond = answers(start, *ab, *ba)
    url = await endpoint(respond)
    judge = llm(url, tmp_path, method="json", num_samples=2, temperature=1.0, concurrency=1)
    [each] = await judged(judge)
    assert (each.p_a, each.outcome, each.consistent) == (0.875, "a", True)
    schema = respond.bodies[1]["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["reasoning", "verdict"]
    assert json.loads(each.evidence)[0]["text"] == verdict("A")


async def test_orders_that_disagree_are_asked_again_and_then_abstained_on(endpoint, tmp_path):
    respond = answers(verdict("A"))
    url = await endpoint(respond)
    [each] = await judged(llm(url, tmp_path, method="json", max_reasks=2))
    assert (each.outcome, each.reason, each.p_a) == ("abstain", "orders_disagree", None)
    assert len(respond.bodies) == 1 + 3 * 2
    assert len({json.dumps(body) for body in respond.bodies}) == 7, "a question asked again carries another code"
    raw = json.loads(each.evidence)
    assert [(one["order"], one["reask"]) for one in raw] == [(o, n) for o in ("ab", "ba") for n in range(3)]
    assert all(one["text"] == verdict("A") for one in raw)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (completion("", refusal="no"), "refused"),
        (completion("", finish_reason="content_filter"), "refused"),
        (completion("") | {"choices": []}, "empty"),
        (completion("   "), "empty"),
        (completion("A"), "unreadable"),
        (completion("[" * 100_000), "unreadable"),
        (completion('{"verdict": "A", "verdict": "B"}'), "both_labels"),
        (completion(verdict("A or B")), "no_label"),
        (completion(verdict("A"), finish_reason="length"), "cut_off"),
    ],
)
async def test_what_cannot_be_read_is_asked_again_and_abstained_on_with_its_text(endpoint, tmp_path, reply, reason):
    respond = answers(reply)
    url = await endpoint(respond)
    [each] = await judged(llm(url, tmp_path, method="json", max_reasks=1))
    assert (each.outcome, each.reason) == ("abstain", reason)
    assert len(respond.bodies) == 1 + 2 * 2
    assert json.loads(each.evidence)[0]["reason"] == reason
    assert len(each.evidence) < 5 * 4096


async def test_one_unreadable_answer_is_replaced_by_the_next(endpoint, tmp_path):
    # In turn: a first (unreadable), b first, and a first once more.
    url = await endpoint(answers("{}", "hm", verdict("B"), verdict("A")))
    [each] = await judged(llm(url, tmp_path, method="json", concurrency=1))
    assert (each.outcome, each.p_a) == ("a", 1.0)


@pytest.mark.parametrize(
    ("top", "p_first"),
    [
        ({"A": math.log(0.6), "B": math.log(0.2)}, 0.75),
        ({"x": -0.01, " B": math.log(0.2), "A\n": math.log(0.3), " A": math.log(0.3)}, 0.75),
        ({"The": -0.5, "A": -1.0}, 1.0),
        ({"The": -0.5, "a": -1.0}, None),
    ],
)
async def test_labels_are_summed_over_their_spellings(endpoint, tmp_path, top, p_first):
    url = await endpoint(answers("x", top=top))
    judge = llm(url, tmp_path, max_reasks=0)
    [each] = await judged(judge)
    raw = json.loads(each.evidence)
    if p_first is None:
        assert (each.outcome, each.reason) == ("abstain", "no_label")
    else:
        assert [one["value"] for one in raw] == [pytest.approx(p_first)] * 2


async def test_grades_are_read_and_their_mean_is_the_score(endpoint, tmp_path):
    scores = iter([1, 7, 8, 11, 11, 11])
    respond = answers(*["{}" if n == 1 else json.dumps({"reasoning": "so", "score": n}) for n in scores])
    url = await endpoint(respond)
    judge = llm(
        url, tmp_path, style="pointwise", method="json", num_samples=2, temperature=1.0, concurrency=1, max_reasks=1
    )
    await judge.start()
    [[good, bad]] = await judge.score([make_group(["yes", "no"])])
    await judge.close()
    assert (good.value, good.reason) == (7.5, "")
    assert (bad.value, bad.reason) == (None, "score_out_of_range")


async def test_a_worker_makes_pairs_of_its_verdicts(endpoint, tmp_path):
    url = await endpoint(fault_server.FaultServer(one_in=10**9))
    settings = LlmJudge(model="tiny", endpoint=url, comparisons="all")
    texts = [f"answer {each} of quality {each}" for each in (3, 9, 1)]
    shard = make_shard(tmp_path, [make_group(texts)])
    worker = JudgeWorker(settings=settings, run_dir=tmp_path, run_id="run")
    pairs = await worker.build(shard, verdict_dir="verdicts", pair_dir="pairs")
    await worker.close()
    [pair] = read_pairs(tmp_path, pairs)
    assert (pair.chosen, pair.rejected) == (texts[1], texts[2])
    assert pair.source == "llm"
    assert 0.6 < pair.margin < 0.7, "mean win probabilities: 9 against 3 and 1, 1 against 3 and 9"
    assert list((tmp_path / "verdict_store").glob("judge-0-*.jsonl"))
    assert worker.report().counts["requests"] == 1 + 2 * 3


async def test_every_attempt_and_token_is_counted(endpoint, tmp_path):
    server = fault_server.FaultServer(one_in=2, retry_after_s="0")
    url = await endpoint(server)
    judge = llm(url, tmp_path, timeout_s=2.0, budget={"price_input": 1.0, "price_output": 2.0})
    await judged(judge, *map(question, range(60)))
    counts = judge.report().counts
    assert counts["requests"] == server.tally["requests"]
    assert counts["prompt_tokens"] + counts["completion_tokens"] == server.tally["tokens"]
    assert counts["tokens_assumed"] >= server.tally["tokens_unreported"] > 0
    assert counts["failed_timeout"] == server.tally["hang"] > 0
    assert counts["failed_server_error"] == server.tally["server_error"] > 0
    assert counts["money"] > 1e-6 * server.tally["tokens"]
    assert judge.report().counts == {}, "a report is since the last one"


async def test_a_restart_pays_for_no_verdict_twice(endpoint, tmp_path):
    server = fault_server.FaultServer(one_in=10**9)
    url = await endpoint(server)
    first = await judged(llm(url, tmp_path), *map(question, range(10)))
    with open(next(tmp_path.glob("*.jsonl")), "ab") as file:
        file.write(b'{"key": "torn')
    judge = llm(url, tmp_path, actor=1, num_actors=2)
    again = await judged(judge, *map(question, range(11)))
    assert again[:10] == first
    assert server.tally["requests"] == (1 + 20) + (1 + 2)
    assert judge.report().counts["cache_hits"] == 20


async def test_the_same_question_at_the_same_moment_is_sent_once(endpoint, tmp_path):
    server = fault_server.FaultServer(one_in=10**9)
    url = await endpoint(server)
    found = await judged(llm(url, tmp_path), *[question(3)] * 8)
    assert len(set(found)) == 1
    assert server.tally["requests"] == 1 + 2


async def test_another_template_model_or_salt_is_another_question(endpoint, tmp_path):
    server = fault_server.FaultServer(one_in=10**9)
    url = await endpoint(server)
    changes = [{}, {"rubric": "harmlessness"}, {"model": "other"}, {"salt": "pepper"}, {"temperature": 0.5}]
    ids = set()
    for change in changes:
        judge = llm(url, tmp_path, **change)
        ids.add(judge.judge_id)
        await judged(judge)
    assert server.tally["requests"] == 3 * len(changes)
    assert len(ids) == len(changes) - 1, "the salt is no part of the judge"


async def test_a_spent_budget_abstains_says_so_and_is_remembered(endpoint, tmp_path):
    server = fault_server.FaultServer(one_in=10**9)
    url = await endpoint(server)
    judge = llm(url, tmp_path, budget={"requests": 9}, concurrency=4)
    found = await judged(judge, *map(question, range(10)))
    reasons = [each.reason for each in found]
    assert server.tally["requests"] == 9
    assert reasons.count("") >= 3
    assert set(reasons) == {"", "budget_spent"}
    assert any("judge.budget.requests = 9" in notice for notice in judge.report().notices)
    again = llm(url, tmp_path, budget={"requests": 9})
    assert [each.reason for each in await judged(again, question(99))] == ["budget_spent"]
    assert server.tally["requests"] == 9
    more = llm(url, tmp_path, budget={"requests": 12})
    assert [each.outcome for each in await judged(more, question(1))] != ["abstain"]


@pytest.mark.parametrize("limit", [{"tokens": 9_000}, {"money": 0.009, "price_input": 1.0, "price_output": 1.0}])
async def test_tokens_and_money_are_never_overspent_by_several_actors(endpoint, tmp_path, limit):
    server = fault_server.FaultServer(one_in=10**9)
    url = await endpoint(server)
    reasons = []
    for restart in range(2):
        judges = [llm(url, tmp_path, actor=n, num_actors=3, budget=limit, concurrency=6) for n in range(3)]
        for judge in judges:
            await judge.start()
        for number, judge in enumerate(judges):
            asked = [question(1000 * restart + 100 * number + n) for n in range(6)]
            reasons += [each.reason for [each] in await judge.judge(asked)]
            await judge.close()
    assert set(reasons) == {"", "budget_spent"}
    assert 3_500 < server.tally["tokens"] <= 9_000


async def test_a_dead_endpoint_raises_and_a_failing_question_abstains(endpoint, tmp_path):
    server = fault_server.FaultServer(one_in=10**9)
    url = await endpoint(server)
    judge = llm(url, tmp_path, max_attempts=2)
    await judge.start()
    [[each]] = await judge.judge([question(1, extra="stubborn server_error")])
    assert (each.outcome, each.reason) == ("abstain", "endpoint_failed")
    assert each.reason in FAILED_OVER
    server._kind = lambda body, digest: "server_error"
    with pytest.raises(InfraError, match=r"answered none of 1\d requests.*out of order; see that it runs") as raised:
        await judge.judge(list(map(question, range(6))))
    assert "\n" not in str(raised.value)
    server._kind = lambda body, digest: None
    [[each]] = await judge.judge([question(7)])
    assert each.outcome != "abstain", "it is asked again as soon as there is other work"
    await judge.close()


async def test_the_stage_deadline_ends_what_would_wait_for_ever(endpoint, tmp_path):
    server = fault_server.FaultServer(one_in=10**9, retry_after_s="3600")
    url = await endpoint(server)
    judge = llm(url, tmp_path, stage_timeout_s=1.0)
    found = await judged(judge, question(1, extra="stubborn rate_limited"), question(2))
    assert [each.reason for each in found] == ["deadline", ""]


async def test_bad_starts_are_refused_in_one_line(endpoint, tmp_path, monkeypatch):
    def status(code):
        return lambda path, body, headers: Reply(body=b'{"error": {"message": "not you"}}', status=code)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    cases = {
        "no connection: ": nobody,
        "check the key": await endpoint(status(401)),
        "name a model": await endpoint(status(404)),
        "HTTP 400": await endpoint(status(400)),
        "no log-probabilities": await endpoint(answers("A")),
    }
    for words, url in cases.items():
        judge = llm(url, tmp_path, max_attempts=2)
        with pytest.raises(UsageError, match=words) as refused:
            await judge.start()
        await judge.close()
        assert "\n" not in str(refused.value)
        assert url in str(refused.value)


async def test_a_key_that_is_refused_in_mid_run_stops_the_work(endpoint, tmp_path):
    server = fault_server.FaultServer(one_in=10**9)
    url = await endpoint(server)
    judge = llm(url, tmp_path, concurrency=4)
    await judge.start()
    server._reply = lambda *args: Reply(body=b"{}", status=401)
    with pytest.raises(InfraError, match="check the key"):
        await judge.judge(list(map(question, range(50))))
    assert server.tally["requests"] <= 1 + 2 * 4
    await judge.close()


async def test_the_key_is_shown_nowhere(endpoint, tmp_path, monkeypatch, caplog):
    key = "sk-planted-0123456789abcdef"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    seen = []

    def echo(path, body, headers):
        seen.append(headers["authorization"])
        number = len(seen)
        if number == 2:
            return Reply(body=f'{{"error": {{"message": "bad key {key}"}}}}'.encode(), status=500)
        if number == 3:
            return Reply(body=f'{{"error": {{"message": "bad key {key}"}}}}'.encode(), status=400)
        top = {"A": -0.1, "B": -2.0} if number == 1 else {key: -0.1}
        return Reply(body=json.dumps(completion(key, top=top)).encode())

    caplog.set_level("DEBUG")
    judge = llm(await endpoint(echo), tmp_path, concurrency=1, max_reasks=1)
    found = await judged(judge, question(1), question(2))
    assert set(seen) == {f"Bearer {key}"}
    outputs = [
        repr(found),
        repr(judge.report()),
        caplog.text,
        judge.judge_id,
        repr(vars(judge)),
        repr(vars(judge._asking)),
    ]
    outputs += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    outputs.append(config("http://127.0.0.1:1").model_dump_json())
    assert not [text for text in outputs if key in text]
    assert "(key)" in repr(found)
    denied = llm(await endpoint(lambda *_: Reply(body=key.encode(), status=401)), tmp_path)
    with pytest.raises(UsageError) as refused:
        await denied.start()
    await denied.close()
    assert key not in str(refused.value)
    assert os.environ["OPENAI_API_KEY"] == key
