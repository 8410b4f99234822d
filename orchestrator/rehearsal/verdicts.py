"""What a rehearsal found out about each part of a run."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from orchestrator.rehearsal.watch import Watch, resources
from orchestrator.types import RoundRecord

# A tiny round that takes longer than this in a part deserves a look before a large one is started.
_SLOW_S = {
    "placement": 60.0,
    "engine start": 600.0,
    "judge start": 300.0,
    "learner start": 300.0,
    "generation": 120.0,
    "judge": 120.0,
    "learning": 120.0,
    "weight sync": 30.0,
    "evaluation": 240.0,
    "resume": 900.0,
}
_COLOURS = {"ok": "green", "slow": "yellow", "failed": "red", "not reached": "red", "left out": "dim"}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """seconds: None where a part took none of its own."""

    part: str
    verdict: Literal["ok", "slow", "failed", "not reached", "left out"]
    seconds: float | None
    found: str


def passed(part: str, seconds: float | None, found: str) -> Verdict:
    """The verdict on a part that did its work."""
    slow = seconds is not None and seconds > _SLOW_S.get(part, float("inf"))
    return Verdict(part=part, verdict="slow" if slow else "ok", seconds=seconds, found=found)


def failed(part: str, found: str, seconds: float | None = None) -> Verdict:
    """The verdict on a part that did not."""
    return Verdict(part=part, verdict="failed", seconds=seconds, found=found)


def read_verdicts(
    root: Path, records: list[RoundRecord], lines: list[dict[str, Any]], watch: Watch
) -> dict[str, Verdict]:
    """A verdict on each part that left a trace in the rehearsal's run directory, in the order of a round."""
    spent: dict[str, float] = {}
    for line in lines:
        if line["kind"] == "stage" and line["round"] in (None, 0):
            spent[line["stage"]] = spent.get(line["stage"], 0.0) + line["seconds"]
    record = records[0] if records else None
    update, scores = (record.update, record.scores) if record else (None, None)
    found: list[Verdict] = []
    if "place" in spent:
        said = f"asks for {resources(watch.asked)}, the cluster has {resources(watch.there)}"
        found.append((passed if watch.fits else failed)("placement", seconds=spent["place"], found=said))
    for stage, part in (("start judges", "judge start"), ("start engines", "engine start")):
        if stage in spent:
            found.append(passed(part, spent[stage], _memory(lines, "engine") if stage == "start engines" else ""))
    if record is not None and record.shards is not None:
        found += [passed("generation", spent.get("generate"), _generated(lines)), _judged(record, spent.get("judge"))]
    if "start learner" in spent:
        found.append(passed("learner start", spent["start learner"], ""))
    if record is not None and record.probe is not None:
        found.append(passed("engine against learner", None, f"{record.probe.mean_difference:.1e} nats a token apart"))
    if update is not None and update.num_steps:
        found.append(passed("learning", spent.get("learn"), _learnt(lines, update.num_steps)))
        found.append(passed("publication", None, _published(root, update.metrics.get("published_share"))))
    syncs = [line for line in lines if line["kind"] == "sync"]
    if syncs:
        most = max(line["load_s"] for line in syncs)
        said = f"{_size(syncs[-1]['size_bytes'])} in {most:.2f} s at most, engines {len({s['engine'] for s in syncs})}"
        found.append(passed("weight sync", most, said))
    if scores is not None and scores.standings:
        rate = scores.win_rate
        said = f"{rate.num_prompts} held-out prompts" if rate else "no verdict on held-out answers"
        found.append((passed if rate else failed)("evaluation", seconds=spent.get("evaluate"), found=said))
    return {verdict.part: verdict for verdict in found}


def table(verdicts: list[Verdict]) -> Table:
    """One row a part."""
    page = Table(header_style="bold", pad_edge=False, box=None)
    for name, justify in (("part", "left"), ("verdict", "left"), ("seconds", "right"), ("what it found", "left")):
        page.add_column(name, justify=justify, no_wrap=name != "what it found", overflow="fold")  # type: ignore[arg-type]
    for one in verdicts:
        seconds = "" if one.seconds is None else f"{one.seconds:.1f}"
        page.add_row(one.part, f"[{_COLOURS[one.verdict]}]{one.verdict}[/]", seconds, one.found)
    return page


def _generated(lines: list[dict[str, Any]]) -> str:
    made = [line for line in lines if line["kind"] == "generated" and line["stage"] == "generate"]
    if not made:
        return ""
    started = min(line["time"] - line["seconds"] for line in made)
    wall = max(line["time"] for line in made) - started
    num_tokens = sum(line["num_tokens"] for line in made)
    return f"{num_tokens / max(wall, 1e-9):,.0f} tokens/s, {num_tokens:,} tokens by {_engines(made)}"


def _engines(lines: list[dict[str, Any]]) -> str:
    num = len({line["engine"] for line in lines})
    return f"{num} engine" + ("s" if num > 1 else "")


def _judged(record: RoundRecord, seconds: float | None) -> Verdict:
    reasons = ", ".join(f"{reason} {num}" for reason, num in sorted(record.num_rejected.items()))
    said = f"{record.num_pairs} pairs of {record.num_prompts} prompts" + (f"; rejected: {reasons}" if reasons else "")
    if record.num_abstained:
        said += "; abstained: " + ", ".join(f"{why} {num}" for why, num in sorted(record.num_abstained.items()))
    return passed("judge", seconds, said) if record.num_pairs else failed("judge", said, seconds)


def _learnt(lines: list[dict[str, Any]], num_steps: int) -> str:
    steps = [line for line in lines if line["kind"] == "step" and line["stage"] == "learn"]
    said = (
        f"{num_steps} steps, loss {steps[-1]['loss']:.3f}, {steps[-1]['tokens_per_s']:,.0f} tokens/s" if steps else ""
    )
    memory = _memory(lines, "learner")
    return f"{said}, {memory}" if memory else said


def _memory(lines: list[dict[str, Any]], part: str) -> str:
    peaks = [line for line in lines if line["kind"] == "memory" and line["part"].startswith(part)]
    if not peaks:
        return ""
    gpu = max((line.get("gpu_memory_bytes", 0) for line in peaks), default=0)
    said = f"{_size(max(line['memory_bytes'] for line in peaks))} of memory at most"
    return said + (f", {_size(gpu)} of the GPU" if gpu else "")


def _published(root: Path, share: float | None) -> str:
    policy, state = (_folder_bytes(root / name) for name in ("policies/v0001", "learner/0000"))
    free = shutil.disk_usage(root).free
    said = f"policy {_size(policy)}, learner's state {_size(state)} a round; {_size(free)} free there"
    return said if share is None else f"{said}; {share:.0%} of the update survives"


def _folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _size(size_bytes: float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:,.1f} GiB"
