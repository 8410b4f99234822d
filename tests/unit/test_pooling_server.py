"""Scores over HTTP: the rows of the local judge, retries that are counted, and abstentions where nothing helps."""

import pytest
from tenacity import wait_none

from judge.reward import http
from judge.reward.config import RewardModelBackend
from judge.reward.judge import build_reward_model
from judge.reward.model import LocalClassifier
from rollout.errors import UsageError
from tests.support.pooling_stub import PoolingStub
from tests.support.tiny_classifier import make_tiny_classifier
from tests.support.tiny_groups import make_group

BUSY = (429, {"retry-after": "0"}, b"slow down")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_classifier(tmp_path_factory.mktemp("pooling") / "model")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(http, "_back_off", wait_none())


def total(ids):
    return [float(sum(ids))]


def make_judge(folder, stub, **settings):
    return build_reward_model(RewardModelBackend(model=str(folder), endpoint=f"{stub.url}/v1", **settings))


async def test_the_server_gets_the_rows_of_the_local_judge_and_gives_its_scores(folder, monkeypatch):
    groups = [make_group(["a", "bb" * 40, "c"]), make_group(["dd"], question="how?")]
    seen = []
    whole = LocalClassifier.forward
    monkeypatch.setattr(LocalClassifier, "forward", lambda self, rows: seen.extend(rows) or whole(self, rows))
    await build_reward_model(RewardModelBackend(model=str(folder))).score(groups)
    async with PoolingStub(total).serve() as stub:
        judge = make_judge(folder, stub, batch_size=3)
        await judge.start()
        found = await judge.score(groups)
        await judge.close()
    sent = [row for body in stub.requests[1:] for row in body["input"]]
    assert sorted(sent) == sorted(row.tolist() for row in seen)
    assert all(body["use_activation"] is False and body["add_special_tokens"] is False for body in stub.requests)
    scores = [score.value for one in found for score in one]
    assert sorted(scores) == sorted(float(sum(row)) for row in sent)
    assert len(set(scores)) == 4
    assert scores[1] == max(scores), "each score came back to its own row"
    assert [len(body["input"]) for body in stub.requests] == [1, 3, 1]


async def test_what_fails_for_a_while_is_retried_and_counted(folder):
    faults = {2: BUSY, 3: (503, {}, b"loading"), 4: (200, {}, b'{"data": [{"ind'), 5: (200, {}, b'{"data": []}')}
    async with PoolingStub(total, lambda number, _: faults.get(number)).serve() as stub:
        judge = make_judge(folder, stub)
        await judge.start()
        found = await judge.score([make_group(["a", "b"])])
        counts = judge.report().counts
        await judge.close()
    assert all(score.value is not None for score in found[0])
    assert (counts["requests"], counts["retries"], counts["rows"]) == (6, 4, 2)


async def test_what_fails_for_good_abstains(folder):
    async with PoolingStub(total, lambda number, _: (500, {}, b"broken") if number > 1 else None).serve() as stub:
        judge = make_judge(folder, stub, max_attempts=3)
        await judge.start()
        found = await judge.score([make_group(["a", "b"])])
        assert len(stub.requests) == 4
        await judge.close()
    assert [(score.value, score.reason) for score in found[0]] == [(None, "endpoint_failed")] * 2
    assert b"HTTP 500" in found[0][0].evidence


async def test_a_row_that_the_server_refuses_does_not_take_its_batch_along(folder):
    def refuses_long(_, body):
        return (400, {}, b"too long for me") if max(map(len, body["input"])) > 60 else None

    async with PoolingStub(total, refuses_long).serve() as stub:
        judge = make_judge(folder, stub)
        await judge.start()
        found = await judge.score([make_group(["a", "b" * 100, "c", "d", "e"])])
        await judge.close()
    assert [score.reason for score in found[0]] == ["", "endpoint_failed", "", "", ""]


async def test_no_more_requests_are_in_flight_than_allowed(folder):
    async with PoolingStub(total).serve() as stub:
        judge = make_judge(folder, stub, batch_size=1, concurrency=3)
        await judge.start()
        await judge.score([make_group([str(i) for i in range(20)])])
        await judge.close()
    assert stub.most_open == 3


async def test_a_server_that_cannot_score_is_refused_at_the_start(folder, monkeypatch):
    monkeypatch.setenv("POOLING_KEY", "k-1")
    async with PoolingStub(lambda ids: [0.0, 1.0]).serve() as stub:
        with pytest.raises(UsageError, match="2 labels"):
            await make_judge(folder, stub, api_key_env="POOLING_KEY").start()
        assert stub.headers[0]["authorization"] == "Bearer k-1"
        gone = stub.url
    with pytest.raises(UsageError, match="does not score"):
        await build_reward_model(RewardModelBackend(model=str(folder), endpoint=gone, max_attempts=2)).start()
    async with PoolingStub(total, lambda *_: (404, {}, b"no such model")).serve() as stub:
        with pytest.raises(UsageError, match="HTTP 404"):
            await make_judge(folder, stub).start()


async def test_a_score_that_is_not_finite_abstains(folder):
    async with PoolingStub(lambda ids: [float("nan") if len(ids) > 10 else 1.0]).serve() as stub:
        judge = make_judge(folder, stub)
        await judge.start()
        found = await judge.score([make_group(["a", "b" * 30])])
        await judge.close()
    assert [score.reason for score in found[0]] == ["", "judge_not_finite"]
