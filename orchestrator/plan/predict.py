"""A plan: who runs where, what memory holds, how long a round takes, and what would make it shorter."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.config import RunConfig, parse_config
from orchestrator.placement import Share, placement
from orchestrator.plan.hardware import Hardware
from orchestrator.plan.memory import engine_memory, learner_memory
from orchestrator.plan.model_shape import ModelShape
from orchestrator.plan.rates import Rates, accelerator_rates
from orchestrator.plan.seconds import StageSeconds, stage_seconds
from orchestrator.plan.workload import Workload
from rollout.errors import UsageError

_WORTH_SAYING = 0.95  # of the round's time


@dataclass(frozen=True, kw_only=True)
class Placed:
    """Actors of one kind, how many of them found room, and how many on each node."""

    share: Share
    num_placed: int
    per_node: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """problems: in words, what keeps the run from starting or from staying within memory."""

    placed: tuple[Placed, ...]
    memory: dict[str, dict[str, float]]
    seconds: StageSeconds
    round_s: float
    problems: tuple[str, ...]

    @property
    def num_gpus_used(self) -> float:
        return sum(one.num_placed * one.share.gpus for one in self.placed)


def predict(
    shape: ModelShape, config: RunConfig, work: Workload, hardware: Hardware, rates: Rates | None = None
) -> Prediction:
    """rates: those measured; without them the accelerator's."""
    if rates is None:
        assert hardware.accelerator is not None, "a machine without GPUs has rates that were measured"
        rates = accelerator_rates(hardware.accelerator)
    placed = place(placement(config, has_gpus=hardware.num_gpus > 0), hardware)
    problems = [
        f"{one.share.num - one.num_placed} of {one.share.num} {one.share.name}s find no room: each takes "
        f"{one.share.gpus:g} GPUs of one node"
        for one in placed
        if one.num_placed < one.share.num
    ]
    memory: dict[str, dict[str, float]] = {}
    num_cached = float("inf")
    if hardware.accelerator is not None:
        room = hardware.accelerator.memory_bytes
        engine = engine_memory(shape, config, memory_bytes=room)
        memory = {"learner": learner_memory(shape, config), "engine": engine.parts}
        num_cached = engine.num_cached
        problems += _too_little(memory, room, num_cached, work)
    seconds = stage_seconds(shape, config, work, rates, num_cached=num_cached)
    return Prediction(
        placed=placed,
        memory=memory,
        seconds=seconds,
        round_s=seconds.whole(overlaps=config.max_policy_lag > 0),
        problems=tuple(problems),
    )


def place(shares: tuple[Share, ...], hardware: Hardware) -> tuple[Placed, ...]:
    """Fill nodes with actors in their order, each on the first node that has room for it."""
    free = [float(hardware.gpus_per_node)] * hardware.num_nodes
    found = []
    for share in shares:
        per_node = [0] * hardware.num_nodes
        for _ in range(share.num):
            node = next((node for node, gpus in enumerate(free) if gpus + 1e-9 >= share.gpus), None)
            if node is not None:
                free[node] -= share.gpus
                per_node[node] += 1
        found.append(Placed(share=share, num_placed=sum(per_node), per_node=tuple(per_node)))
    return tuple(found)


def bottleneck(found: Prediction, *, overlaps: bool) -> str:
    """The stage that a round waits for longest, and its share of the round."""
    stages = {
        "generate": found.seconds.generate + (found.seconds.judge or 0.0),
        "learn": found.seconds.learn,
        "sync": found.seconds.sync,
        "evaluate": found.seconds.evaluate,
    }
    if overlaps:
        stages.pop("learn" if stages["learn"] < stages["generate"] else "generate")
    name = max(stages, key=lambda stage: stages[stage])
    return f"{name}, {stages[name] / found.round_s:.0%} of a round"


def what_helps(
    shape: ModelShape, config: RunConfig, work: Workload, hardware: Hardware, found: Prediction
) -> list[dict[str, Any]]:
    """Other settings that fit on the same hardware and shorten a round, or make a run fit at all; the best first."""
    better = []
    for setting, changed in _alternatives(config, hardware, found):
        other = predict(shape, changed, work, hardware)
        if not other.problems and (found.problems or other.round_s < _WORTH_SAYING * found.round_s):
            better.append({"set": setting, "round_s": other.round_s})
    return sorted(better, key=lambda one: one["round_s"])


def _alternatives(config: RunConfig, hardware: Hardware, found: Prediction) -> Iterator[tuple[str, RunConfig]]:
    engine = next(one.share for one in found.placed if one.share.name == "engine")
    rank = next(one.share for one in found.placed if one.share.name == "learner")
    others = found.num_gpus_used - sum(
        one.num_placed * one.share.gpus for one in found.placed if one.share in (engine, rank)
    )
    ranks = config.learner.num_ranks
    all_engines = int((hardware.num_gpus - others - ranks * rank.gpus) // max(engine.gpus, 1e-9))
    half = int((hardware.num_gpus - others) // 2)
    sets: list[dict[str, Any]] = [{"max_policy_lag": max(1, config.max_policy_lag)}]
    sets += [
        {"rollout.num_engines": num} for num in {all_engines, all_engines // 2} if num > config.rollout.num_engines
    ]
    sets += [{"rollout.max_num_seqs": 2 * config.rollout.max_num_seqs}]
    sets += [{"learner.activation_checkpointing": "off"}, {"learner.activation_checkpointing": "blocks"}]
    sets += [{"learner.max_tokens_per_microbatch": max(1024, config.learner.max_tokens_per_microbatch // 4)}]
    sets += [{"rollout.tensor_parallel_size": degree} for degree in (2, 4, 8) if degree <= hardware.gpus_per_node]
    if config.learner.lora is None:
        for num in (2 * ranks, 4 * ranks, half):
            engines = max(1, int((hardware.num_gpus - others - num * rank.gpus) // max(engine.gpus, 1e-9)))
            more = {"learner.num_ranks": num, "rollout.num_engines": engines}
            sets += [more, {**more, "learner.activation_checkpointing": "blocks"}]
        sets.append({"learner.optimizer": "adamw_8bit", "learner.activation_checkpointing": "blocks"})
    for one in sets:
        tree = config.model_dump(mode="json")
        for name, value in one.items():
            *parents, leaf = name.split(".")
            section = tree
            for parent in parents:
                section = section[parent]
            section[leaf] = value
        try:
            changed = parse_config(tree, origin="plan")
        except UsageError:
            continue
        if changed != config:
            yield ", ".join(f"{name}={value}" for name, value in one.items()), changed


def _too_little(memory: dict[str, dict[str, float]], room: float, num_cached: float, work: Workload) -> list[str]:
    found = [
        f"the {part} needs {sum(parts.values()) / 1e9:.0f} GB of a GPU's {room / 1e9:.0f} GB"
        for part, parts in memory.items()
        if sum(parts.values()) > room
    ]
    if num_cached < work.prompt_tokens + work.answer_tokens:
        found.append(
            f"an engine's cache has room for {num_cached:.0f} positions, less than one answer with its prompt; raise "
            "rollout.tensor_parallel_size"
        )
    return found
