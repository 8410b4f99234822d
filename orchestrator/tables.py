"""Rounds and samples as a person reads them in a terminal."""

from collections.abc import Sequence
from typing import Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.types import Interval, RoundRecord

# Widths are fixed, so that rows printed as rounds end stand under the header printed before the first.
_COLUMNS = {
    "round": 5,
    "policy": 7,
    "pairs": 6,
    "rejected": 24,
    "margin": 7,
    "accuracy": 8,
    "published": 9,
    "KL/token": 8,
    "length": 6,
    "win rate vs base": 17,
}


def round_table(records: Sequence[RoundRecord], *, header: bool = True) -> Table:
    """One row a round: pairs, rejects by reason, what learning measured, and the held-out win rate.

    Before round 0 stands the base against itself, where that was measured.
    """
    table = Table(header_style="bold", pad_edge=False, box=None, show_header=header)
    for name, width in _COLUMNS.items():
        justify: Literal["left", "right"] = "left" if name == "rejected" else "right"
        table.add_column(name, justify=justify, width=width, no_wrap=name != "rejected")
    for record in records:
        if record.scores and record.scores.base_win_rate:
            table.add_row("base", "v0", *[""] * 7, interval(record.scores.base_win_rate))
        table.add_row(*_row(record))
    return table


def _row(record: RoundRecord) -> list[str]:
    update, scores = record.update, record.scores
    metrics = update.metrics if update else {}
    trained = bool(update and update.num_steps)
    rejected = ", ".join(f"{reason} {num}" for reason, num in sorted(record.all_rejected.items())) or "-"
    return [
        str(record.round_id),
        f"v{record.policy_in.version}>v{update.policy_out.version}" if update else f"v{record.policy_in.version}",
        str(record.num_pairs),
        rejected,
        _number(metrics.get("reward_margin"), "+.3f") if trained else "-",
        _number(metrics.get("reward_accuracy"), ".2f") if trained else "-",
        _number(metrics.get("published_share"), ".0%") if trained else "-",
        _number(scores.kl_k3 if scores else None, ".3f"),
        _number(scores.response_length if scores else None, ".0f"),
        interval(scores.win_rate) if scores and scores.win_rate else "-",
    ]


def interval(value: Interval) -> str:
    """A mean with its 95% interval, as 0.62 [0.55, 0.69]."""
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"


def samples(rows: Sequence[tuple[str, str, str]]) -> Group:
    """Prompts with one answer of the base and one of the trained policy."""
    blocks: list[Text] = []
    for prompt, before, after in rows:
        blocks.append(Text(f"\n{prompt}", style="bold"))
        blocks.append(Text.assemble(("  before  ", "dim"), before.strip()))
        blocks.append(Text.assemble(("  after   ", "green"), after.strip()))
    return Group(*blocks)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
