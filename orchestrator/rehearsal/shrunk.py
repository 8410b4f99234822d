"""The configuration of a rehearsal: the run's own, with less to do, and stand-ins for what failed."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from judge.config import people_of
from orchestrator.config import RunConfig, parse_config
from rollout.types import Message

_NUM_PROMPTS, _NUM_TOKENS, _NUM_COMPLETIONS = 8, 64, 8
_STAND_IN = {"kind": "function", "target": f"{__name__}:stand_in"}
Changes = Mapping[str, Any]

# What takes the place of a part that failed, so that the parts behind it are tried, too.
STAND_INS: dict[str, Changes] = {
    "placement": {"rollout.num_engines": 1, "learner.num_ranks": 1, "learner.ranks_per_node": None},
    "engine start": {"rollout.engine": "transformers"},
    "generation": {"rollout.engine": "transformers"},
    "judge start": {"judge": _STAND_IN, "evaluation.gold": None},
    "judge": {"judge": _STAND_IN},
    "engine against learner": {"probe.max_mean_difference": 1e9},
    "weight sync": {"evaluation.prompts": None},
    "evaluation": {"evaluation.prompts": None, "evaluation.gold": None},
}


def stand_in(prompts: Sequence[Any], completions: Sequence[Sequence[Message]], **columns: Any) -> list[float]:
    """Scores that tell any two answers apart, and mean nothing."""
    texts = [answer[0]["content"] for answer in completions]
    return [hashlib.sha256(text.encode(errors="replace")).digest()[0] / 255 for text in texts]


def shrunk(config: RunConfig) -> tuple[RunConfig, list[str]]:
    """The same run on a few prompts, with short answers, and what was left out of it.

    Engines, ranks, judges and their places are the run's own. Nothing is told to trackers, nobody is asked to label,
    and no base policy is fine-tuned.
    """
    num_prompts = min(config.prompts.num_per_round, max(_NUM_PROMPTS, 4 * config.rollout.num_engines))
    changes: dict[str, Any] = {
        "num_rounds": 1 if config.evaluation.prompts else 2,  # without held-out answers only a next round syncs
        "max_policy_lag": 0,
        "policy.sft": None,
        "prompts.num_per_round": num_prompts,
        "rollout.num_completions": min(config.rollout.num_completions, _NUM_COMPLETIONS),
        "rollout.max_new_tokens": min(config.rollout.max_new_tokens, _NUM_TOKENS),
        "rollout.prompts_per_shard": max(1, num_prompts // (2 * config.rollout.num_engines)),
        "judge.canaries": None,
        "learner.batch_pairs": min(config.learner.batch_pairs, _NUM_PROMPTS // 2),
        "learner.num_epochs": 1,
        "evaluation.num_prompts": min(config.evaluation.num_prompts or _NUM_PROMPTS, _NUM_PROMPTS),
        "evaluation.num_completions": 1,
        "evaluation.gate": {},
        "evaluation.alarm": {},
        "probe.num_completions": min(config.probe.num_completions, _NUM_PROMPTS),
        "tracking": {},
        "logging": "text",
    }
    left_out = [] if config.policy.sft is None else ["fine-tuning of the base policy"]
    if people_of(config.judge) is not None:
        changes["judge"] = _STAND_IN
        left_out.append("people as the judge")
    return changed(config, changes), left_out


def changed(config: RunConfig, changes: Changes) -> RunConfig:
    """The configuration with these settings; keys that a section does not have are left out."""
    tree = config.model_dump(mode="json")
    for name, value in changes.items():
        *parents, leaf = name.split(".")
        section = tree
        for parent in parents:
            section = section[parent]
        if leaf in section:
            section[leaf] = value
    return parse_config(tree, origin="rehearsal")
