"""`rondo bench cluster`: how generation grows with the number of engines, whose service times are simulated."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, LlamaConfig, PreTrainedTokenizerFast

from orchestrator.base import link_base
from orchestrator.bench import NUM_PAIRS, Row, compared, report
from orchestrator.chunks import in_chunks
from orchestrator.cluster.rollout import RayRollout
from orchestrator.cluster.session import start_ray, stop_ray
from orchestrator.config import RunConfig, parse_config
from orchestrator.observer import Observer
from orchestrator.rundir import RunDir, open_run
from rollout.prompts import prompt_id
from rollout.simulated_engine import STEP_S
from rollout.types import PolicyRef, Prompt

_NUM_ENGINES = (1, 2, 4, 8)
_PROMPTS_PER_SHARD, _NUM_COMPLETIONS, _NUM_TOKENS = 8, 4, 48
_SHARDS_PER_ENGINE = 10


def bench_cluster() -> dict[str, Any]:
    """All figures of the cluster's own work, which needs neither a GPU nor a model."""
    return report("cluster", scaling_rows())


def scaling_rows(*, num_runs: int = NUM_PAIRS) -> list[Row]:
    """Shards/s over 1, 2, 4 and 8 engines, each against as many times what one engine's service time allows."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_policy(root / "policy")
        # The engines sleep most of the time, so they need no cores of their own.
        start_ray(_config(root / "policy", 1).cluster)
        try:
            return [_row(root, num, num_runs) for num in _NUM_ENGINES]
        finally:
            stop_ray()


def _row(root: Path, num_engines: int, num_runs: int) -> Row:
    config = _config(root / "policy", num_engines)
    run = open_run(root / f"run-{num_engines}", config)
    policy = link_base(run.root, root / "policy")
    rollout = RayRollout(run, config, Observer(run.root, console=Console(quiet=True)))
    try:
        rollout.load(policy, num_engines=num_engines)
        rates = [_shards_per_s(rollout, run, config, policy, f"{number:04d}") for number in range(-1, num_runs)]
    finally:
        rollout.close()
    linear = num_engines / (_NUM_TOKENS * STEP_S)
    name = f"{num_engines} simulated engine" + "s" * (num_engines > 1)
    return compared(name, rates[1:], [linear] * num_runs, unit="shards/s", peer="linear", floor=0.95)


def _shards_per_s(rollout: RayRollout, run: RunDir, config: RunConfig, policy: PolicyRef, name: str) -> float:
    num_shards = config.rollout.num_engines * _SHARDS_PER_ENGINE
    prompts = _prompts(num_shards * _PROMPTS_PER_SHARD)
    chunks = in_chunks(prompts, _PROMPTS_PER_SHARD, round_id=0, shard_dir=f"rounds/{name}/groups")
    started = time.perf_counter()
    made = list(rollout.generate(chunks, policy=policy, sampling=config.rollout.sampling))
    assert len(made) == num_shards
    return num_shards / (time.perf_counter() - started)


def _prompts(num: int) -> Sequence[Prompt]:
    messages = [({"role": "user", "content": f"what is {n} ?"},) for n in range(num)]
    return [Prompt(prompt_id=prompt_id(each), messages=each, source="bench") for each in messages]  # type: ignore[arg-type]


def _config(policy: Path, num_engines: int) -> RunConfig:
    tree = {
        "policy": {"path": str(policy), "dtype": "float32"},
        "prompts": {"path": "bench"},
        "rollout": {
            "engine": "rollout.simulated_engine:SimulatedEngine",
            "num_engines": num_engines,
            "cpus_per_engine": 0,
            "num_completions": _NUM_COMPLETIONS,
            "max_new_tokens": _NUM_TOKENS,
            "prompts_per_shard": _PROMPTS_PER_SHARD,
            "max_num_seqs": _PROMPTS_PER_SHARD * _NUM_COMPLETIONS,  # one shard at a time
            "shards_in_flight": 2,
        },
        "judge": {"target": "bench:none"},
    }
    return parse_config(tree, origin="bench")


def make_policy(folder: Path) -> None:
    """A folder that has all of a policy but weights: configuration, and a tokenizer of 64 words."""
    folder.mkdir(parents=True)
    words = ["<pad>", "<eos>", "<unk>", *(f"word{n}" for n in range(61))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    fast.save_pretrained(folder)
    config = LlamaConfig(vocab_size=len(words), max_position_embeddings=512, pad_token_id=0, eos_token_id=1)
    config.save_pretrained(folder)
    GenerationConfig(pad_token_id=0, eos_token_id=[1]).save_pretrained(folder)
    save_file({}, folder / "model.safetensors")
