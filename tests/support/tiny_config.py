"""The configuration of a run that takes a second or two: a tiny policy, eight prompts, two rounds."""

from pathlib import Path
from typing import Any

from orchestrator.config import RunConfig, parse_config


def tiny_config(policy: Path, **changes: Any) -> RunConfig:
    tree: dict[str, Any] = {
        "num_rounds": 2,
        "policy": {"path": str(policy), "dtype": "float32"},
        "prompts": {"path": "tests.support.tiny_judge:prompts", "num_per_round": 8},
        "rollout": {
            "engine": "transformers",
            "num_completions": 3,
            "max_new_tokens": 8,
            "prompts_per_shard": 4,
        },
        "judge": {"target": "tests.support.tiny_judge:score"},
        "learner": {"learning_rate": 1e-3, "batch_pairs": 4, "num_threads": 1, "compute_dtype": "float32"},
        "evaluation": {"prompts": "tests.support.tiny_judge:held_out"},
        "probe": {"num_completions": 4},
    }
    for name, value in changes.items():
        section = tree
        *parents, leaf = name.split("__")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = value
    return parse_config(tree, origin="tiny")
