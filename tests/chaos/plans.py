"""What is done when: a seed and a number give a run, its configuration, and the faults that strike it."""

import random
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.chaos.moments import EVENTS, Moment, draw

NUM_ROUNDS, NUM_PROMPTS, PROMPTS_PER_SHARD, NUM_EPOCHS, BATCH_PAIRS = 3, 6, 2, 4, 2
DEADLINE_S = 60.0
_EVERYWHERE = ("engine killed", "judge killed", "learner killed", "driver killed")
_FILES = ("committed file cut", "uncommitted shard cut")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A configuration and the kinds of faults that it is for.

    exact: its files are those of the undisturbed run; where faults leave their mark in the judge's answers they are
    not. place: on a Ray of its own, on a cluster of several nodes, or as a job of one.
    """

    name: str
    kinds: tuple[str, ...]
    changes: dict[str, Any] = field(default_factory=dict)
    judge: Literal["function", "llm", "human"] = "function"
    place: Literal["own", "nodes", "job"] = "own"
    exact: bool = True
    small_disk: bool = False
    num_injections: int = 4

    @property
    def max_policy_lag(self) -> int:
        return int(self.changes.get("max_policy_lag", 0))


_TWO_ENGINES = {"rollout__num_engines": 2, "max_policy_lag": 1}
VARIANTS = (
    Variant(name="two engines, lag 1", kinds=(*_EVERYWHERE, *_FILES), changes=_TWO_ENGINES, num_injections=6),
    Variant(name="one engine", kinds=("engine hung", "judge calls late", *_EVERYWHERE, *_FILES), num_injections=5),
    Variant(
        name="two ranks",
        kinds=("learner killed", "learner killed", "engine killed", "driver killed", *_FILES),
        changes={"learner__num_ranks": 2},
    ),
    Variant(
        name="people, lag 1",
        kinds=("label server killed", "label server killed", *_EVERYWHERE),
        changes={"max_policy_lag": 1},
        judge="human",
    ),
    Variant(name="endpoint", kinds=("judge requests lost", "judge requests lost", *_EVERYWHERE), judge="llm"),
    Variant(
        name="endpoint that talks nonsense, lag 1",
        kinds=("judge requests spoilt", "judge requests spoilt", "judge requests lost", *_EVERYWHERE),
        changes={"max_policy_lag": 1},
        judge="llm",
        exact=False,
    ),
    Variant(
        name="function that fails",
        kinds=("judge calls spoilt", "judge calls spoilt", *_EVERYWHERE),
        exact=False,
    ),
    Variant(name="small disk", kinds=("disk full", "disk full", "disk full", *_EVERYWHERE), small_disk=True),
    Variant(
        name="nodes, two engines, lag 1",
        kinds=("raylet killed", "raylet killed", "raylet killed", *_EVERYWHERE),
        changes=_TWO_ENGINES,
        place="nodes",
    ),
    Variant(
        name="job", kinds=("job stopped", "job stopped", "engine killed", "judge killed", "learner killed"), place="job"
    ),
)
ON_VLLM = Variant(
    name="vLLM, lag 1",
    kinds=(*_EVERYWHERE, *_FILES),
    changes={"rollout__engine": "vllm", "max_policy_lag": 1, "rollout__max_model_len": 128},
    exact=False,
    num_injections=5,
)


@dataclass(frozen=True, kw_only=True)
class Injection:
    """A fault of this kind at this moment."""

    kind: str
    moment: Moment


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One run, and its injections in the order of their moments."""

    seed: int
    number: int
    variant: Variant
    injections: tuple[Injection, ...]


def plan(seed: int, number: int, variants: tuple[Variant, ...] = VARIANTS, *, at_most: int = 100) -> Plan:
    """The run of this number, with at_most so many injections; variants take turns."""
    rng = random.Random(f"{seed}/{number}")
    variant = variants[number % len(variants)]
    kinds = rng.sample(variant.kinds, variant.num_injections)[:at_most]
    injections = sorted(
        (Injection(kind=kind, moment=_moment(rng, kind)) for kind in kinds), key=lambda injection: injection.moment
    )
    return Plan(seed=seed, number=number, variant=variant, injections=tuple(injections))


def _moment(rng: random.Random, kind: str) -> Moment:
    num_chunks = NUM_PROMPTS // PROMPTS_PER_SHARD
    if kind == "engine hung":  # while the learner learns what the engine will be told to load
        return draw(rng, num_rounds=NUM_ROUNDS - 1, num_chunks=1, num_steps=NUM_EPOCHS, events=("step", "published"))
    return draw(rng, num_rounds=NUM_ROUNDS, num_chunks=num_chunks, num_steps=NUM_EPOCHS, events=EVENTS)


def settings(variant: Variant, *, policy: str, endpoint: str) -> dict[str, Any]:
    """The configuration of a run as a tree."""
    judge: dict[str, dict[str, Any]] = {
        "function": {"target": "tests.chaos.judges:score"},
        "llm": {"kind": "llm", "model": "stub", "endpoint": endpoint, "timeout_s": 3.0, "max_backoff_s": 1.0},
        "human": {"kind": "human", "min_dwell_s": 0, "labels_per_minute": 100_000, "double_share": 0.0},
    }
    tree: dict[str, Any] = {
        "num_rounds": NUM_ROUNDS,
        "policy": {"path": policy, "dtype": "float32"},
        "prompts": {"path": "tests.support.tiny_judge:prompts", "num_per_round": NUM_PROMPTS},
        "rollout": {
            "engine": "transformers",
            "num_completions": 2,
            "max_new_tokens": 12,
            "prompts_per_shard": PROMPTS_PER_SHARD,
            "start_timeout_s": DEADLINE_S,
            "generate_timeout_s": DEADLINE_S,
        },
        "judge": judge[variant.judge],
        "learner": {
            "learning_rate": 1e-3,
            "num_epochs": NUM_EPOCHS,
            "batch_pairs": BATCH_PAIRS,
            "num_threads": 1,
            "compute_dtype": "float32",
            "rank_timeout_s": DEADLINE_S,
        },
        "evaluation": {"prompts": "tests.support.tiny_judge:held_out"},
        "probe": {"num_completions": 2},
        "cluster": {"num_cpus": 6, "object_store_mib": 80},
    }
    if variant.judge == "human":
        tree["evaluation"]["gold"] = {"kind": "function", "target": "tests.chaos.judges:score"}
    for name, value in variant.changes.items():
        section = tree
        *parents, leaf = name.split("__")
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = value
    return tree
