"""A plan as one object, and as a page."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.config import RunConfig
from orchestrator.plan.hardware import Hardware
from orchestrator.plan.model_shape import ModelShape
from orchestrator.plan.predict import Prediction, bottleneck
from orchestrator.plan.rates import DECODE_BANDWIDTH_SHARE, LEARN_SHARE, PREFILL_SHARE, SCORE_SHARE
from orchestrator.plan.workload import Workload


def plan_object(
    *,
    shape: ModelShape,
    config: RunConfig,
    work: Workload,
    hardware: Hardware,
    found: Prediction,
    helps: list[dict[str, Any]],
    assumptions: list[str],
    price_per_hour: float | None,
) -> dict[str, Any]:
    """What `rondo plan --json` prints; price_per_hour is that of all of the hardware together."""
    seconds = found.seconds
    run_s = found.round_s * config.num_rounds
    return {
        "hardware": hardware.name,
        "fits": not found.problems,
        "problems": list(found.problems),
        "model": {"num_parameters": shape.num_parameters, "num_multiplied": shape.num_multiplied},
        "workload": {
            "num_answers": work.num_answers,
            "num_pairs": work.num_pairs,
            "prompt_tokens": work.prompt_tokens,
            "answer_tokens": work.answer_tokens,
        },
        "placement": [
            {
                "name": one.share.name,
                "num": one.share.num,
                "num_placed": one.num_placed,
                "gpus": one.share.gpus,
                "cpus": one.share.cpus,
                "per_node": list(one.per_node),
            }
            for one in found.placed
        ],
        "num_gpus": hardware.num_gpus,
        "num_gpus_used": found.num_gpus_used,
        "memory_bytes": found.memory,
        "seconds": {
            "generate": seconds.generate,
            "judge": seconds.judge,
            "learn": seconds.learn,
            "sync": seconds.sync,
            "evaluate": seconds.evaluate,
            "round": found.round_s,
            "run": run_s,
        },
        "bottleneck": bottleneck(found, overlaps=config.max_policy_lag > 0),
        "helps": helps,
        "cost": None
        if price_per_hour is None
        else {"round": found.round_s / 3600 * price_per_hour, "run": run_s / 3600 * price_per_hour},
        "assumptions": assumptions,
    }


def stated_shares() -> str:
    """The utilisation that figures of a data sheet are taken with."""
    return (
        f"of its data sheet an accelerator reaches {DECODE_BANDWIDTH_SHARE:.0%} of the bandwidth in decoding, and of "
        f"the dense bf16 peak {PREFILL_SHARE:.0%} in prefills, {LEARN_SHARE:.0%} in learning, "
        f"{SCORE_SHARE:.0%} in scoring"
    )


def plan_page(found: dict[str, Any]) -> RenderableType:
    """The same for a person."""
    billions = found["model"]["num_parameters"] / 1e9
    work = found["workload"]
    head = Text(
        f"{found['hardware']}: {billions:.3g} billion parameters; a round makes {work['num_answers']:,} answers of "
        f"{work['answer_tokens']:,.0f} tokens to prompts of {work['prompt_tokens']:,.0f} and has "
        f"{work['num_pairs']:,.0f} pairs",
        style="bold",
    )
    blocks: list[RenderableType] = [head, *(Text(f"does not fit: {why}", style="red") for why in found["problems"])]
    blocks += [Text(""), _placement(found)]
    if found["memory_bytes"]:
        blocks += [Text(""), _memory(found["memory_bytes"])]
    blocks += [Text(""), _seconds(found), Text(f"\nbottleneck: {found['bottleneck']}")]
    if found["num_gpus"] > found["num_gpus_used"]:
        idle = found["num_gpus"] - found["num_gpus_used"]
        blocks.append(Text(f"{idle:g} of {found['num_gpus']} GPUs have nothing to do", style="yellow"))
    blocks += [Text(f"would help: {one['set']} ({_duration(one['round_s'])} a round)") for one in found["helps"][:5]]
    if found["cost"]:
        blocks.append(Text(f"costs {found['cost']['round']:,.2f} a round, {found['cost']['run']:,.2f} the run"))
    blocks += [Text(f"assumed: {one}", style="dim") for one in found["assumptions"]]
    return Group(*blocks)


def _placement(found: dict[str, Any]) -> Table:
    table = _table("actors", "num", "GPUs each", "CPUs each", "on each node")
    for one in found["placement"]:
        nodes = " ".join(map(str, one["per_node"]))
        table.add_row(one["name"], str(one["num"]), f"{one['gpus']:g}", f"{one['cpus']:g}", nodes)
    return table


def _memory(memory: dict[str, dict[str, float]]) -> Table:
    table = _table("GB on each GPU", *memory, "")
    names = list(dict.fromkeys(name for parts in memory.values() for name in parts))
    for name in names:
        table.add_row(name, *(f"{parts[name] / 1e9:,.1f}" if name in parts else "" for parts in memory.values()))
    table.add_row("together", *(f"{sum(parts.values()) / 1e9:,.1f}" for parts in memory.values()), style="bold")
    return table


def _seconds(found: dict[str, Any]) -> Table:
    table = _table("stage", "time")
    for name, value in found["seconds"].items():
        table.add_row(name, "not known" if value is None else _duration(value), style="bold" if name == "round" else "")
    return table


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, name in enumerate(names):
        table.add_column(name, justify="right" if place else "left", no_wrap=True)
    return table


def _duration(seconds: float) -> str:
    if seconds < 600:
        return f"{seconds:,.1f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
