"""`rondo bench judge`: requests per second of a language-model judge, against a bare loop of the openai client."""

import json
import subprocess
import sys
from typing import Any

from orchestrator.bench import NUM_PAIRS, compared, report
from rollout.errors import InfraError


def bench_judge(*, num_pairs: int = NUM_PAIRS, num_questions: int = 1500) -> dict[str, Any]:
    """Alternate the judge and the bare loop on the same questions, at 256 requests in flight and 50 ms of latency.

    The peer's figure is the smaller of what the bare loop reaches and what that latency allows.
    """
    command = [sys.executable, "-m", "judge.llm.throughput"]
    command += ["--pairs", str(num_pairs), "--questions", str(num_questions)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InfraError(f"`{' '.join(command)}` ended with exit code {done.returncode}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout)
    peers = [min(each, found["ceiling"]) for each in found["bare"]]
    row = compared(
        "language-model verdicts", found["ours"], peers, unit="requests/s", peer="bare AsyncOpenAI", floor=0.8
    )
    return report("judge", [row])
