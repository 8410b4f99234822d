"""`rondo bench rollout`: generation through Ray, workers and durable shards, against raw LLM.generate."""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.base import BASE_PATH, record_base
from orchestrator.bench import NUM_PAIRS, announce, compared, report
from orchestrator.chunks import in_chunks
from orchestrator.cluster.learner import RayLearner
from orchestrator.cluster.rollout import RayRollout
from orchestrator.cluster.session import start_ray, stop_ray
from orchestrator.config import RunConfig, parse_config
from orchestrator.observer import Observer
from orchestrator.rundir import open_run
from rollout.shards import read_groups
from rollout.sources import load_prompts
from rollout.types import GroupShard, PolicyRef, Prompt

_NUM_PROMPTS = 128


def bench_config(**changes: Any) -> RunConfig:
    """A policy of random weights in the quickstart's shape, whose answers run to their full length."""
    tree = {
        "policy": {"scratch": {"corpus": "orchestrator.quickstart:demonstrations"}, "dtype": "float32"},
        "prompts": {"path": "orchestrator.quickstart:prompts", "num_per_round": _NUM_PROMPTS},
        "rollout": {"num_completions": 8, "max_new_tokens": 64, "cpus_per_engine": 1},
        "judge": {"target": "orchestrator.quickstart.preference:score"},
        **changes,
    }
    return parse_config(tree, origin="bench")


def bench_rollout(*, num_pairs: int = NUM_PAIRS) -> dict[str, Any]:
    """Alternate our generation and the peer's on the same prompts; tokens/s of both and their ratio."""
    config = bench_config()
    prompts = load_prompts(config.prompts.path).prompts[:_NUM_PROMPTS]
    with tempfile.TemporaryDirectory() as folder:
        run = open_run(Path(folder), config)
        observer = Observer(run.root, console=Console(quiet=True))
        start_ray(config.cluster)
        try:
            announce("rollout: making a policy, starting the engine and the peer's")
            learner = RayLearner(run, config, observer)
            made = learner.make_base(config, source=None, path=BASE_PATH, on_step=lambda step: None)
            base = record_base(run.root, made)
            rollout = RayRollout(run, config, observer)
            rollout.load(base)
            _, shards = _ours(rollout, config, prompts, base, "warm")
            token_ids = [group.prompt_token_ids.tolist() for shard in shards for group in read_groups(run.root, shard)]
            ours, peers = [], []
            with _peer(run.root, config, base, token_ids) as generate:
                generate()
                for number in range(num_pairs):
                    announce(f"rollout: pair of runs {number + 1} of {num_pairs}")
                    ours.append(_ours(rollout, config, prompts, base, f"{number:04d}")[0])
                    peers.append(generate())
        finally:
            stop_ray()
    row = compared("generation", ours, peers, unit="tokens/s", peer="vLLM LLM.generate", floor=0.9)
    return report("rollout", [row])


def _ours(
    rollout: RayRollout, config: RunConfig, prompts: tuple[Prompt, ...], base: PolicyRef, name: str
) -> tuple[float, list[GroupShard]]:
    size = config.rollout.prompts_per_shard
    chunks = in_chunks(prompts, size, round_id=0, shard_dir=f"rounds/{name}/groups")
    started = time.perf_counter()
    shards = list(rollout.generate(chunks, policy=base, sampling=config.rollout.sampling))
    seconds = time.perf_counter() - started
    return sum(shard.num_tokens for shard in shards) / seconds, sorted(shards, key=lambda shard: shard.chunk_id)


@contextmanager
def _peer(root: Path, config: RunConfig, base: PolicyRef, token_ids: list[list[int]]) -> Iterator[Any]:
    settings = config.rollout
    request = {
        "model": str(root / base.path),
        "dtype": config.policy.dtype,
        "prompts": token_ids,
        "engine": {
            "max_num_seqs": settings.max_num_seqs,
            "enforce_eager": True,
            "kv_cache_memory_bytes": 2**30,
            "logprobs_mode": "processed_logprobs",
        },
        "sampling": {
            "n": settings.num_completions,
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_new_tokens,
            "logprobs": 0,
        },
    }
    (root / "peer.json").write_text(json.dumps(request))
    command = [sys.executable, "-m", "rollout.vllm_peer", str(root / "peer.json")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )

    def answer() -> Any:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("@"):
                return json.loads(line[1:])
        raise RuntimeError(f"the peer ended with exit code {process.wait()}; run {' '.join(command)} to see why")

    def generate() -> float:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        done = answer()
        return float(done["num_tokens"] / done["seconds"])

    try:
        assert answer() == "ready"
        yield generate
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait(timeout=60)
