"""`rondo status`: what a run has done and where it stands, read from its files alone."""

import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.console import Group, RenderableType
from rich.text import Text

from orchestrator.base import existing_manifest
from orchestrator.journal import Journal
from orchestrator.lock import is_held
from orchestrator.people import last_address
from orchestrator.rundir import read_run
from orchestrator.scoreboard.standings import rank_rounds
from orchestrator.tables import round_table, scoreboard_table
from orchestrator.types import RoundRecord, RoundScores
from rollout.types import PolicyRef

_LINE_KEYS = {"kind", "round", "stage", "time", "round_id", "judge"}
STAGES = ("generate", "judge", "learn", "sync", "evaluate")


def open_journal(root: Path) -> Journal:
    """The journal of an existing run, for reading. Raises UsageError if `root` is no run."""
    run = read_run(root.resolve())
    base = existing_manifest(run.root) or PolicyRef(version=0, path="", sha256="")
    return Journal(run, base_policy=base)


def status(root: Path) -> dict[str, Any]:
    """The object that `rondo status --json` prints."""
    journal = open_journal(root)
    parent = journal.run.file.parent
    lines = read_metrics(journal.run.root)
    seconds = stage_seconds(lines)
    records = journal.records()
    rounds = [_round(record, seconds[record.round_id], lines) for record in records]
    return {
        "state": _state(journal, records, lines),
        "labelling_page": last_address(root) or None,
        "run_id": journal.run.run_id,
        "parent": parent.summary if parent else None,
        "num_rounds": journal.run.config.num_rounds,
        "num_pairs_total": sum(round_["num_pairs"] for round_ in rounds),
        "num_steps_total": sum(round_["num_steps"] for round_ in rounds),
        "first_token_s": next((line["seconds"] for line in lines if line["kind"] == "first_token"), None),
        "rounds": rounds,
        "ranking": [
            {"round_id": one.round_id, "elo": one.elo, "low": one.elo_low, "high": one.elo_high}
            for one in rank_rounds(records)
        ],
    }


def status_page(root: Path) -> RenderableType:
    """The same for a person."""
    journal = open_journal(root)
    found = status(root)
    last = found["rounds"][-1] if found["rounds"] else None
    stage = f", round {last['round_id']} in stage {last['stage']}" if last and last["stage"] != "done" else ""
    head = f"{root}: {found['state']}{stage}; {found['num_pairs_total']} pairs, {found['num_steps_total']} steps"
    blocks: list[RenderableType] = [Text(head, style="bold")]
    if found["parent"]:
        parent = found["parent"]
        blocks.append(Text(f"forked from {parent['run_id']} ({parent['path']}) at round {parent['round_id']}"))
    if found["labelling_page"]:
        blocks.append(Text(f"labelling page: {found['labelling_page']}"))
    if found["rounds"]:
        blocks.append(round_table(journal.records()))
        scoreboard = scoreboard_table(journal.records(), rank_rounds(journal.records()))
        blocks += [scoreboard] if scoreboard else []
    for round_ in found["rounds"]:
        spent = "  ".join(f"{name} {value:.1f} s" for name, value in round_["seconds"].items())
        rate = round_["tokens_per_s"]
        generated = f"  {rate:,.0f} tokens/s" if rate else ""
        blocks.append(Text(f"round {round_['round_id']}: {spent}{generated}  lag {round_['lag']}", style="dim"))
    return Group(*blocks)


def read_metrics(root: Path) -> list[dict[str, Any]]:
    """All lines of metrics.jsonl; a last line cut off by a crash is left out."""
    path = root / "metrics.jsonl"
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def stage_seconds(lines: list[dict[str, Any]]) -> dict[int | None, dict[str, float]]:
    """Seconds spent in each stage of each round, over all attempts that finished it."""
    seconds: dict[int | None, dict[str, float]] = defaultdict(lambda: dict.fromkeys(STAGES, 0.0))
    for line in lines:
        if line["kind"] == "stage" and line["stage"] in STAGES:
            seconds[line["round"]][line["stage"]] += line["seconds"]
    return seconds


def _round(record: RoundRecord, seconds: dict[str, float], lines: list[dict[str, Any]]) -> dict[str, Any]:
    scores = record.scores
    rate = scores.win_rate if scores else None
    here = [line for line in lines if line["round"] == record.round_id and line["stage"] == "generate"]
    tokens = sum(line["num_tokens"] for line in here if line["kind"] == "generated")
    judged = [line for line in lines if line["round"] == record.round_id and line["kind"] == "judged"]
    update = record.update
    return {
        "round_id": record.round_id,
        "stage": record.stage,
        "policy_version_in": record.policy_in.version,
        "policy_version_out": update.policy_out.version if update else None,
        "lag": record.policy_in.version - record.policy_sampled.version,
        "num_prompts": record.num_prompts,
        "num_pairs": record.num_pairs,
        "num_unpaired": record.num_unpaired,
        "num_rejected": record.all_rejected,
        "num_abstained": dict(record.num_abstained),
        "num_steps": update.num_steps if update else 0,
        "metrics": dict(update.metrics) if update else {},
        "win_rate": {"mean": rate.mean, "low": rate.low, "high": rate.high, "baseline": scores.baseline}
        if scores and rate
        else None,
        "kl": scores.answers.kl_k3 if scores and scores.answers else None,
        "response_length": scores.answers.response_length if scores and scores.answers else None,
        "scores": TypeAdapter(RoundScores).dump_python(scores, mode="json") if scores else None,
        "canaries": asdict(record.canaries) if record.canaries else None,
        "judging": _summed(judged),
        "rolled_back": record.rolled_back,
        "gate_reasons": list(record.gate_reasons),
        "probe": record.probe.mean_difference if record.probe else None,
        "tokens_per_s": tokens / seconds["generate"] if tokens and seconds["generate"] else None,
        "seconds": seconds,
    }


def _summed(judged: list[dict[str, Any]]) -> dict[str, float]:
    """What all judges did in a round: its pairs, and its held-out answers."""
    counts: defaultdict[str, float] = defaultdict(float)
    for line in judged:
        for key, value in line.items():
            if key not in _LINE_KEYS:
                counts[key] += value
    return dict(counts)


def _state(journal: Journal, records: list[RoundRecord], lines: list[dict[str, Any]]) -> str:
    if len(records) >= journal.run.config.num_rounds and all(record.stage == "done" for record in records):
        return "done"
    if is_held(journal.run.root):
        return "running"
    last = next((line["state"] for line in reversed(lines) if line["kind"] == "attempt"), "stopped")
    return "failed" if last == "failed" else "stopped"
