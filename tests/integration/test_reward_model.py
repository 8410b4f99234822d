"""Reward models on real pairs: the quickstart's, and people's dialogues; and scores from vLLM's pooling server."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from itertools import chain

import httpx
import pytest

from judge.reward.config import RewardModelBackend
from judge.reward.judge import build_reward_model
from learner.base_config import ScratchConfig
from learner.reward_model import split_by_prompt
from learner.reward_rows import load_comparisons
from learner.scratch import random_model, train_tokenizer
from orchestrator.quickstart import prompts
from orchestrator.quickstart.preference import prefer
from tests.support.processes import rondo
from tests.support.shared_data import shared_data
from tests.support.tiny_classifier import make_tiny_classifier
from tests.support.tiny_groups import make_group

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]


def fit(*arguments):
    code, out, err = rondo("reward-model", "fit", *map(str, arguments), "--json", timeout_s=1200)
    assert code == 0, err
    assert "step 1/" in err
    return json.loads(out)


async def test_a_reward_model_agrees_with_the_gold_preference_on_prompts_that_it_never_saw(
    quickstart, quickstart_reward
):
    own, _ = load_comparisons([str(quickstart.root)])
    _, held_out = split_by_prompt(own, share=0.25, seed=17)
    assert len(held_out) == quickstart_reward.report["held_out"]["num_pairs"] > 50
    about = {row["prompt"]: row for row in prompts()}
    judge = build_reward_model(RewardModelBackend(model=str(quickstart_reward.folder)))
    num_gold = num_ours = 0
    for pair in held_out:
        question, answers = pair.chosen[0]["content"], [pair.chosen[-1]["content"], pair.rejected[-1]["content"]]
        row = about[question]
        best, worst = (prefer(text, row["subject"], row["keywords"]) for text in answers)
        num_gold += best > worst
        left, right = (await judge.score([make_group(answers, question=question)]))[0]
        num_ours += left.value > right.value
    print(f"agrees with gold on {num_ours} of {num_gold} held-out pairs")
    assert num_gold == len(held_out)
    assert num_ours / num_gold == pytest.approx(quickstart_reward.report["held_out"]["accuracy"], abs=0.02)
    # 0.9 is what it reaches on the whole; with 160 held-out pairs one run stands within five points of that.
    assert num_ours / num_gold >= 0.82


def test_it_loads_and_trains_on_real_dialogues(tmp_path):
    path = shared_data("hh_rlhf_harmless_base_test.jsonl.gz")
    whole, dropped = load_comparisons([str(path)])
    assert len(whole) + sum(dropped.values()) == 2312
    assert len(whole) > 2200
    scratch = ScratchConfig(hidden_size=64, intermediate_size=128, num_heads=2, num_kv_heads=1, context_length=512)
    texts = [turn["content"] for pair in whole[:300] for turn in pair.chosen]
    tokenizer = train_tokenizer(texts, vocabulary_size=scratch.vocabulary_size, context_length=512)
    random_model(tokenizer, scratch, seed=0).save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    report = fit(
        *(path, "--model", tmp_path / "policy", "--out", tmp_path / "out", "--max-pairs", 300),
        *("--epochs", 4, "--learning-rate", 2e-3, "--batch-pairs", 16),
    )
    assert report["num_pairs"] + report["held_out"]["num_pairs"] == 300
    assert sum(report["dropped"].values()) + 300 == 2312
    assert report["dropped"]["too_long"] > 0
    losses = report["losses"]
    assert sum(losses[-8:]) < 0.8 * sum(losses[:8]), "it can learn these pairs by heart, at least"
    assert 0.0 < report["held_out"]["low"] < report["held_out"]["high"] < 1.0


@pytest.fixture(scope="module")
def pooling_server(tmp_path_factory):
    folder = make_tiny_classifier(tmp_path_factory.mktemp("pooling") / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"--model": folder, "--runner": "pooling", "--dtype": "float32", "--max-model-len": 512, "--port": port}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--host", "127.0.0.1", "--enforce-eager"]
    command += [str(word) for option in options.items() for word in option]
    quiet = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    with open(folder.parent / "server.log", "wb") as log:
        process = subprocess.Popen(
            command,
            env={**os.environ, **quiet, "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/health", process, folder.parent / "server.log")
            yield folder, f"http://127.0.0.1:{port}"
        finally:
            process.terminate()  # it takes its own engine down with it
            process.wait(timeout=60)


def wait_for(url, process, log, deadline_s=900.0):
    started = time.monotonic()
    while time.monotonic() - started < deadline_s:
        assert process.poll() is None, log.read_text()[-3000:]
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(url).status_code == 200:
                return
        time.sleep(1.0)
    raise AssertionError(f"{url} did not answer in {deadline_s} s: {log.read_text()[-3000:]}")


async def test_a_pooling_server_gives_the_scores_of_the_local_judge(pooling_server):
    folder, url = pooling_server
    texts = ["a", "bb" * 40, "", "yes " * 60, "x" * 600]
    groups = [make_group(texts, question=question) for question in ("why?", "how?")]
    local = build_reward_model(RewardModelBackend(model=str(folder)))
    served = build_reward_model(RewardModelBackend(model=str(folder), endpoint=f"{url}/v1", batch_size=3))
    ours, theirs = await local.score(groups), await served.score(groups)
    for one, other in zip(chain(*ours), chain(*theirs), strict=True):
        assert one.reason == other.reason
        assert one.value == pytest.approx(other.value, abs=1e-3)
    assert [score.reason for score in ours[0]] == ["", "", "", "", "too_long"]
    assert len({score.value for scores in ours for score in scores}) == 9
    longer = build_reward_model(RewardModelBackend(model=str(folder), endpoint=url, max_length=2000))
    refused = (await longer.score(groups[:1]))[0]
    assert [score.reason for score in refused] == ["", "", "", "", "endpoint_failed"]
    await served.close()
    await longer.close()
