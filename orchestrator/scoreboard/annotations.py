"""`rondo winrate`: the figures of a file of pairwise annotations, as AlpacaEval computes them."""

from collections.abc import Mapping
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from orchestrator.scoreboard.annotation_files import Annotations, read_annotations
from orchestrator.scoreboard.intervals import mean_interval
from orchestrator.scoreboard.length_control import length_controlled


def win_rates(path: Path) -> dict[str, Any]:
    """The object that `rondo winrate --json` prints; rates in percent. Raises UsageError in one line."""
    found = read_annotations(path)
    y, num = found.preferences, len(found.preferences)
    by_instruction: dict[str, list[float]] = {}
    for instruction, preference in zip(found.instructions, y.tolist(), strict=True):
        by_instruction.setdefault(instruction, []).append(preference)
    interval = mean_interval([float(np.mean(values)) for values in by_instruction.values()])
    assert interval is not None, "read_annotations refuses a file without a usable row"
    return {
        "file": path.name,
        "win_rate": float(100 * y.mean()),
        "standard_error": float(100 * y.std(ddof=1) / sqrt(num)) if num > 1 else None,
        "interval": {"low": 100 * interval.low, "high": 100 * interval.high, "num_prompts": interval.num_prompts},
        "num_wins": int((y > 0.5).sum()),
        "num_losses": int((y < 0.5).sum()),
        "num_draws": int((y == 0.5).sum()),
        "num_total": num,
        "num_dropped": dict(found.num_dropped),
        "length_controlled": _length_controlled(found),
    }


def _length_controlled(found: Annotations) -> dict[str, Any]:
    seen = found.has_lengths
    ids = [instruction for instruction, is_seen in zip(found.instructions, seen, strict=True) if is_seen]
    hard = None if found.difficulties is None else found.difficulties[seen]
    rate = length_controlled(
        found.len_1[seen], found.len_2[seen], found.preferences[seen], difficulties=hard, prompt_ids=ids
    )
    if rate is None:
        method = "none: it needs 10 rows with both outputs, lengths that differ, and neither side winning all"
        return {"win_rate": None, "low": None, "high": None, "method": method, "num_rows": int(seen.sum())}
    return {
        "win_rate": 100 * rate.win_rate,
        "low": 100 * rate.low,
        "high": 100 * rate.high,
        "method": rate.method,
        "num_rows": rate.num_rows,
    }


def win_rate_page(figures: Mapping[str, Any]) -> RenderableType:
    """The same figures for a person."""
    table = Table(title=str(figures["file"]), title_justify="left")
    for column in ("", "%", "95% interval", "standard error"):
        table.add_column(column, justify="left" if not column else "right")
    interval, controlled = figures["interval"], figures["length_controlled"]
    table.add_row("win rate", *_cells(figures["win_rate"], interval), _cell(figures["standard_error"]))
    table.add_row("length-controlled", *_cells(controlled["win_rate"], controlled), "")
    counts = f"{figures['num_wins']} wins, {figures['num_losses']} losses, {figures['num_draws']} draws"
    dropped = "".join(f"; {num} {reason}" for reason, num in sorted(figures["num_dropped"].items()))
    return Group(
        table,
        Text(f"{counts}, {figures['num_total']} in all{dropped}"),
        Text(f"length-controlled by {controlled['method']}"),
    )


def _cells(rate: float | None, interval: Mapping[str, Any]) -> tuple[str, str]:
    return _cell(rate), "-" if rate is None else f"{interval['low']:.2f} to {interval['high']:.2f}"


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
