"""Requests per second of the judge and of a bare AsyncOpenAI loop, in turns, against one endpoint of a known latency.

`python -m judge.llm.throughput --pairs 7` starts the endpoint in a process of its own and prints one JSON object:
{"ours": [...], "bare": [...], "bare_aiohttp": [...], "ceiling": concurrency / latency}, in requests per second.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from judge.llm.config import BudgetConfig, LlmBackend
from judge.llm.frame import encode_answer, encode_conversation, frame
from judge.llm.judge import LlmJudge
from judge.llm.rubric import load_rubric
from judge.protocol import Context, Question
from rollout.types import Completion, CompletionGroup, Prompt

CONCURRENCY = 256
LATENCY_S = 0.05
_ANSWER = "the answer that helps is one that says what was asked for and not much more than that "


def questions(num_pairs: int, *, first: int) -> list[Question]:
    """Pairs of answers of some 400 characters that are all different."""
    return [Question(group=_group(number), wanted=((0, 1),)) for number in range(first, first + num_pairs)]


async def ours(url: str, asked: list[Question], folder: Path) -> float:
    """Requests per second of the whole judge: framing, hashing, store, budget, retries, reading."""
    config = LlmBackend(model="stub", endpoint=url, concurrency=CONCURRENCY, budget=BudgetConfig(tokens=10**12))
    judge = LlmJudge(config, Context(store_dir=folder, salt="bench"))
    await judge.start()
    try:
        started = time.perf_counter()
        verdicts = await judge.judge(asked)
        seconds = time.perf_counter() - started
        assert all(verdict.outcome != "abstain" for found in verdicts for verdict in found)
        return 2 * len(asked) / seconds
    finally:
        await judge.close()


async def bare(url: str, asked: list[Question], *, transport: Any = None) -> float:
    """Requests per second of nothing but the client, on the same messages; on its default transport, or another."""
    import openai

    rubric = load_rubric("helpfulness", style="pairwise", method="logprobs")
    messages = []
    for question in asked:
        conversation = encode_conversation(question.group.prompt.messages)
        texts = [encode_answer(one.text, max_chars=10**6) for one in question.group.completions]
        for a, b in (texts, texts[::-1]):
            parts = {"conversation": conversation, "answer_a": a, "answer_b": b}
            messages.append(rubric.render(frame(parts, salt="bench")))
    queue = iter(messages)
    async with openai.AsyncOpenAI(api_key="EMPTY", base_url=url, max_retries=0, http_client=transport) as client:

        async def worker() -> None:
            for each in queue:
                request: dict[str, Any] = {"model": "stub", "messages": each, "max_tokens": 1, "temperature": 0.0}
                found = await client.chat.completions.create(**request, logprobs=True, top_logprobs=20)
                assert found.choices[0].logprobs is not None

        started = time.perf_counter()
        await asyncio.gather(*(worker() for _ in range(CONCURRENCY)))
        return len(messages) / (time.perf_counter() - started)


def measure(*, num_pairs: int, num_questions: int) -> dict[str, Any]:
    """Take turns: ours, bare, bare on aiohttp, ours, ...; a warm-up of each goes before."""
    import openai

    numbers = itertools.count(step=num_questions)
    found: dict[str, list[float]] = {"ours": [], "bare": [], "bare_aiohttp": []}
    with _endpoint() as url, tempfile.TemporaryDirectory() as folder:
        for turn in range(num_pairs + 1):
            asked = questions(num_questions if turn else num_questions // 4, first=next(numbers))
            rates = {
                "ours": asyncio.run(ours(url, asked, Path(folder) / str(turn))),
                "bare": asyncio.run(bare(url, asked)),
                "bare_aiohttp": asyncio.run(bare(url, asked, transport=openai.DefaultAioHttpClient())),
            }
            for name, rate in rates.items():
                found[name] += [rate] if turn else []
    return {**found, "ceiling": CONCURRENCY / LATENCY_S}


@contextlib.contextmanager
def _endpoint() -> Iterator[str]:
    command = [sys.executable, "-m", "judge.llm.stub", "--latency-s", str(LATENCY_S)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def _group(number: int) -> CompletionGroup:
    def answer(index: int) -> Completion:
        text = f"{number} {index} {_ANSWER * 5}"[: 420 + (number + index) % 50]
        none = np.zeros(0, np.int32)
        return Completion(
            index=index, token_ids=none, logps=none.astype(np.float32), text=text, finish_reason="stop", seed=None,
            weight_versions=(),
        )  # fmt: skip

    messages = ({"role": "user", "content": f"question {number}: what helps?"},)
    prompt = Prompt(prompt_id=f"{number:024x}", messages=messages, source="bench")  # type: ignore[arg-type]
    return CompletionGroup(prompt=prompt, prompt_token_ids=np.zeros(0, np.int32), completions=(answer(0), answer(1)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--questions", type=int, default=800)
    arguments = parser.parse_args()
    print(json.dumps(measure(num_pairs=arguments.pairs, num_questions=arguments.questions)))
