"""The language-model judge against vLLM's own OpenAI-compatible server: log-probabilities, schemas, bad starts.

The model's weights are random, so its opinions are worth nothing; that it is asked and read rightly is what counts.
"""

import asyncio
import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from transformers import AutoTokenizer

from rollout.errors import UsageError
from tests.support.asked import llm, question
from tests.support.tiny_groups import make_group
from tests.support.tiny_policy import make_tiny_policy

pytestmark = pytest.mark.integration

QUESTIONS = [question(number) for number in range(4)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("judge") / "tiny", context=8192)


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32"]
    command += ["--enforce-eager", "--max-num-seqs", "4", "--logprobs-mode", "processed_logprobs"]
    log = tmp_path_factory.mktemp("log") / "server.log"
    with open(log, "wb") as out:
        environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1"}
        server = subprocess.Popen(command, stdout=out, stderr=out, env=environment)
    deadline = time.monotonic() + 540
    while True:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            break
        except OSError:
            assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]  # noqa: PT018
            time.sleep(0.5)
    yield f"http://127.0.0.1:{port}/v1"
    server.terminate()
    server.wait(timeout=60)


@pytest.fixture(scope="module")
def ids(folder):
    """Ids of single characters."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return lambda character: str(tokenizer.convert_tokens_to_ids(character))


def run(judge, work):
    async def started():
        await judge.start()
        try:
            return await work(judge)
        finally:
            await judge.close()

    return asyncio.run(started()), judge.report().counts


def test_log_probabilities_of_the_labels_are_read(url, ids, tmp_path):
    extra = {"logit_bias": {ids("A"): 50, ids("B"): 50}}
    settings = {"timeout_s": 60.0, "extra_body": extra}
    found, counts = run(llm(url, tmp_path, **settings), lambda judge: judge.judge(QUESTIONS))
    for [verdict] in found:
        first, second = [one["value"] for one in json.loads(verdict.evidence)]
        assert 0.0 < first < 1.0
        assert verdict.p_a == pytest.approx(0.5 + (first - second) / 2)
        assert verdict.outcome in ("a", "b")
    assert len({verdict.p_a for [verdict] in found}) == len(QUESTIONS), "each answer is about its own question"
    assert counts["requests"] == 1 + 2 * len(QUESTIONS)
    assert counts["completion_tokens"] == counts["requests"]
    tilted = {"logit_bias": {ids("A"): 50 + math.log(3), ids("B"): 50}}
    again, _ = run(llm(url, tmp_path, **{**settings, "extra_body": tilted}), lambda judge: judge.judge(QUESTIONS[:1]))
    odds = [
        [p / (1 - p) for p in (one["value"] for one in json.loads(each.evidence))]
        for each in (found[0][0], again[0][0])
    ]
    assert odds[1] == pytest.approx([3 * each for each in odds[0]], rel=1e-3), "the server's own probabilities are read"


def test_verdicts_and_grades_follow_their_schema(url, ids, tmp_path):
    # A random model would fill its reasoning, or the space between two fields, for ever.
    bias = {ids('"'): 100, **{ids(space): -100 for space in "ĠĊĉč"}}
    settings = {"method": "json", "max_tokens": 96, "timeout_s": 60.0, "temperature": 1.0, "max_reasks": 1}
    settings["extra_body"] = {"logit_bias": bias}
    found, counts = run(llm(url, tmp_path, **settings), lambda judge: judge.judge(QUESTIONS))
    answers = [one for [verdict] in found for one in json.loads(verdict.evidence)]
    assert {each.reason for [each] in found} <= {"", "orders_disagree"}
    for one in answers:
        read = json.loads(one["text"])
        assert set(read) == {"reasoning", "verdict"}
        assert one["value"] == {"A": 1.0, "tie": 0.5, "B": 0.0}[read["verdict"]]
    assert counts["requests"] == 1 + len(answers)
    groups = [make_group(["yes", "no", "perhaps"])]
    [scores], _ = run(llm(url, tmp_path, style="pointwise", **settings), lambda judge: judge.score(groups))
    assert all(each.value == json.loads(json.loads(each.evidence)[0]["text"])["score"] for each in scores)
    assert all(each.value in range(1, 11) for each in scores)


def test_an_unknown_model_and_a_too_long_question_are_told_apart(url, tmp_path):
    with pytest.raises(UsageError, match=r"model 'small'.*does not exist.*judge\.model"):
        run(llm(url, tmp_path, model="small"), lambda judge: judge.judge(QUESTIONS))
    long = question(1, extra="very " * 10_000)
    settings = {"timeout_s": 60.0, "max_reasks": 0}
    [[verdict], _], _ = run(llm(url, tmp_path, **settings), lambda judge: judge.judge([long, QUESTIONS[0]]))
    assert (verdict.outcome, verdict.reason) == ("abstain", "refused_by_endpoint")
    assert b"HTTP 400" in verdict.evidence
