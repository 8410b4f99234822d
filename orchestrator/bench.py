"""Figures of this machine as rows, each beside a peer and a floor where it has one."""

import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import psutil
from rich.table import Table

NUM_PAIRS = 7
_NUM_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure. ratio is ours over the peer's, the median of alternating pairs of runs, with its 95% interval.

    value is None where this machine cannot measure it; the name then says why.
    """

    name: str
    value: float | None
    unit: str
    better: Literal["higher", "lower"]
    peer: str | None = None
    peer_value: float | None = None
    ratio: float | None = None
    ratio_low: float | None = None
    ratio_high: float | None = None
    floor: float | None = None


def announce(doing: str) -> None:
    """One line on standard error about what a bench does now: some take minutes."""
    print(doing, file=sys.stderr, flush=True)


def compared(
    name: str,
    ours: Sequence[float],
    peers: Sequence[float],
    *,
    unit: str,
    peer: str,
    floor: float | None = None,
    better: Literal["higher", "lower"] = "higher",
) -> Row:
    """A row for figures taken in turns (ours, peer's, ours, ...)."""
    ratios = np.asarray(ours) / np.asarray(peers)
    draws = np.random.default_rng(0).integers(0, len(ratios), size=(_NUM_RESAMPLES, len(ratios)))
    low, high = np.quantile(np.median(ratios[draws], axis=1), [0.025, 0.975])
    return Row(
        name=name,
        value=float(np.median(ours)),
        unit=unit,
        better=better,
        peer=peer,
        peer_value=float(np.median(peers)),
        ratio=float(np.median(ratios)),
        ratio_low=float(low),
        ratio_high=float(high),
        floor=floor,
    )


def report(bench: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The object that `rondo bench --json` prints."""
    machine = {
        "platform": platform.platform(terse=True),
        "processor": platform.processor() or platform.machine(),
        "num_cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    return {"bench": bench, "machine": machine, "rows": [asdict(row) for row in rows]}


def page(found: dict[str, Any]) -> Table:
    """The same for a person."""
    machine = found["machine"]
    title = f"{found['bench']}: {machine['num_cpus']} CPUs, {machine['memory_gib']} GiB"
    table = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    table.add_column("figure")
    for name in ("ours", "peer", "ratio", "asked"):
        table.add_column(name, justify="right")
    for row in found["rows"]:
        peer = f"{row['peer_value']:,.4g} ({row['peer']})" if row["peer"] else ""
        ratio = f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]" if row["ratio"] else ""
        asked = "" if row["floor"] is None else f"{row['floor']:g}"
        ours = "unmeasured" if row["value"] is None else f"{row['value']:,.4g} {row['unit']}"
        table.add_row(row["name"], ours, peer, ratio, asked)
    return table
