"""`rondo top`: where a run is at this moment, drawn again every second, from its files alone."""

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from orchestrator.status import open_journal, read_metrics, status
from orchestrator.tables import round_table
from orchestrator.types import RoundRecord

Line = dict[str, Any]
_RATE_OVER_S = 60.0
_RECENT_ROUNDS = 8
_STATES = {"running": "green", "done": "cyan", "stopped": "yellow", "failed": "red"}
_STEP_FIGURES = {"loss": ".4f", "reward_margin": "+.3f", "reward_accuracy": ".2f", "kl_k3": ".4f"}


@dataclass(frozen=True, kw_only=True)
class Now:
    """What the newest lines of metrics.jsonl say of a run; rates are over the last minute, None without any event."""

    round_id: int | None
    stage: str
    quiet_s: float | None
    num_groups: int
    num_prompts: int | None
    num_pairs_judged: int
    tokens_per_s: dict[int, float] = field(default_factory=dict)
    step: Line | None = None
    judging: dict[str, dict[str, float]] = field(default_factory=dict)


def now_of(records: Sequence[RoundRecord], lines: Sequence[Line], now: float) -> Now:
    """Figures of the round that is being worked on, or of the last one; now is in seconds since the epoch."""
    record = next((record for record in records if record.stage != "done"), records[-1] if records else None)
    round_id = record.round_id if record else None
    here = [line for line in lines if line["round"] == round_id] if record else list(lines)
    shards = {line.get("chunk_id", n): line for n, line in enumerate(here) if _made(line, "generated")}
    judged = {line["chunk_id"]: line for line in here if line["kind"] == "shard_judged"}
    tokens: defaultdict[int, int] = defaultdict(int)
    for line in lines:
        if line["kind"] == "generated" and now - line["time"] <= _RATE_OVER_S:
            tokens[line.get("engine", 0)] += line["num_tokens"]
    counts: defaultdict[str, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    for line in lines:
        if line["kind"] == "judged":
            for key in ("requests", "latency_s", "money"):
                counts[line["judge"]][key] += line.get(key, 0.0)
    steps = [line for line in here if line["kind"] == "step" and line["stage"] == "learn"]
    return Now(
        round_id=round_id,
        stage=record.stage if record else "",
        quiet_s=now - lines[-1]["time"] if lines else None,
        num_groups=sum(line["num_groups"] for line in shards.values()),
        num_prompts=record.num_prompts if record else None,
        num_pairs_judged=sum(line["num_pairs"] for line in judged.values()),
        tokens_per_s={engine: num / _RATE_OVER_S for engine, num in sorted(tokens.items())},
        step=steps[-1] if steps else None,
        judging={judge: dict(each) for judge, each in counts.items()},
    )


def _made(line: Line, kind: str) -> bool:
    return bool(line["kind"] == kind and line["stage"] == "generate")


def top_page(root: Path, found: dict[str, Any], now: Now, records: Sequence[RoundRecord]) -> RenderableType:
    """One screen of what `status` and `now_of` found."""
    state = found["state"]
    head = Text.assemble((f"{root} ", "bold"), (state, _STATES[state]))
    if now.round_id is not None:
        head.append(f"   round {now.round_id} of {found['num_rounds']}  {now.stage}")
    if now.quiet_s is not None and state == "running":
        head.append(f"   last event {_duration(now.quiet_s)} ago", style="red" if now.quiet_s > 600 else "dim")
    blocks: list[RenderableType] = [head]
    if found["labelling_page"]:
        blocks.append(Text(f"labelling page: {found['labelling_page']}"))
    blocks += [_parts(now, state), Text()] if now.round_id is not None else [Text("no round has begun", style="dim")]
    if records:
        blocks.append(round_table(records[-_RECENT_ROUNDS:]))
    totals = f"{found['num_pairs_total']} pairs, {found['num_steps_total']} steps"
    blocks.append(Text(totals, style="dim"))
    return Group(*blocks)


def _parts(now: Now, state: str) -> Table:
    """One row a part of the run: how far it is in this round, and how fast."""
    table = Table(box=None, pad_edge=False, show_header=False)
    total = now.num_prompts or 0
    rates = "  ".join(f"engine {engine} {rate:,.0f} tokens/s" for engine, rate in now.tokens_per_s.items())
    idle = "idle" if state == "running" else ""
    table.add_row("generate", _bar(now.num_groups, total), f"{now.num_groups}/{total} prompts", rates or idle)
    for judge, counts in now.judging.items() or {"judge": {}}.items():
        table.add_row("judge" if judge == "judge" else judge, "", f"{now.num_pairs_judged} pairs", _spent(counts))
    step = now.step or {}
    done, of = int(step.get("step", 0)), int(step.get("num_steps", 0))
    figures = "  ".join(
        f"{name.removeprefix('reward_')} {step[name]:{form}}" for name, form in _STEP_FIGURES.items() if name in step
    )
    table.add_row("learn", _bar(done, of), f"{done}/{of or '?'} steps", figures)
    return table


def _spent(counts: dict[str, float]) -> str:
    requests = counts.get("requests", 0.0)
    if not requests:
        return ""
    money = f"  spent {counts['money']:.2f}" if counts["money"] else ""
    return f"{requests:,.0f} requests  {counts['latency_s'] / requests:.2f} s each{money}"


def _bar(done: int, total: int) -> RenderableType:
    return ProgressBar(total=max(total, 1), completed=min(done, total), width=24) if total else Text(" " * 24)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def look(root: Path, now: float) -> tuple[RenderableType, str]:
    """The page, and the state that it shows. Raises UsageError where root is no run."""
    found, journal = status(root), open_journal(root)
    records = journal.records()
    return top_page(root, found, now_of(records, read_metrics(journal.run.root), now), records), found["state"]


def watch(root: Path, console: Console, *, once: bool = False, sleep: Callable[[float], None] = time.sleep) -> None:
    """Draw every second until the run is over or Ctrl-C; seldomer where reading a long run takes longer than that."""
    page, state = look(root, time.time())
    if once:
        console.print(page)
        return
    with Live(page, console=console, auto_refresh=False, screen=console.is_terminal) as live:
        while state == "running":
            began = time.monotonic()
            page, state = look(root, time.time())
            live.update(page, refresh=True)
            sleep(max(1.0, 9 * (time.monotonic() - began)))
    console.print(page)
