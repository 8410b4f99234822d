"""`rondo bench judge`: requests per second of a language-model judge, against a bare loop of the openai client."""

import json
import subprocess
import sys
from typing import Any

from orchestrator.bench import NUM_PAIRS, announce, compared, report
from rollout.errors import InfraError


def bench_judge(*, num_pairs: int = NUM_PAIRS, num_questions: int = 800) -> dict[str, Any]:
    """Alternate the judge and the bare loop on the same questions, at 256 requests in flight and 50 ms of latency.

    The peer's figure is the smaller of what the bare loop reaches and what that latency allows.
    """
    command = [sys.executable, "-m", "judge.llm.throughput"]
    command += ["--pairs", str(num_pairs), "--questions", str(num_questions)]
    announce(f"judge: {num_pairs} pairs of runs of {num_questions} questions")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InfraError(f"`{' '.join(command)}` ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    rows = []
    for peer, rates in (("bare AsyncOpenAI", "bare"), ("bare AsyncOpenAI on aiohttp, as the judge is", "bare_aiohttp")):
        peers = [min(rate, found["ceiling"]) for rate in found[rates]]
        floor = 0.8 if rates == "bare" else None
        rows.append(compared("verdict requests", found["ours"], peers, unit="requests/s", peer=peer, floor=floor))
    return report("judge", rows)
