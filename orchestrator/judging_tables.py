"""What `rondo judge` and `rondo judge audit` print for a person."""

from typing import Any

from rich.table import Table


def judged_table(found: dict[str, Any]) -> Table:
    """What came of judging completions that existed already."""
    table = _table(f"judged, written to {found['out']}")
    table.add_row("prompts", str(found["num_prompts"]))
    table.add_row("pairs", str(found["num_pairs"]))
    table.add_row("rows beside pairs", str(found["num_unpaired"]))
    for title, counts in (
        ("without a pair", found["num_rejected"]),
        ("abstentions", found["num_abstained"]),
        ("unusable rows", found["unusable"]),
    ):
        table.add_row(title, ", ".join(f"{reason} {num}" for reason, num in sorted(counts.items())) or "none")
    for name, value in sorted(found["counts"].items()):
        table.add_row(name.replace("_", " "), f"{value:,.6g}")
    return table


def audit_table(found: dict[str, Any]) -> Table:
    """A judge against one's own labels."""
    table = _table(f"{found['judge_id']} on {found['num_pairs']} labelled pairs")
    table.add_row("agreement", _share(found["agreement"]))
    table.add_row("agreement where both chose a side", _share(found["decisive_agreement"]))
    table.add_row("Cohen's kappa", _number(found["kappa"]))
    position, length, calibration = found["position"], found["length"], found["calibration"]
    table.add_row("verdicts that change with the order", _share(position["changed"]))
    table.add_row("first place over second (0 is no bias)", _number(position["first_minus_second"], signed=True))
    if length:
        interval = f"[{length['low']:+.2f}, {length['high']:+.2f}]"
        table.add_row("longer answers preferred beyond the labels", f"{length['correlation']:+.2f} {interval}")
    if calibration:
        table.add_row("calibration error", _number(calibration["expected_error"]))
        table.add_row("Brier score", _number(calibration["brier"]))
    table.add_row("ties", _share(found["ties"]))
    reasons = ", ".join(f"{reason} {num}" for reason, num in sorted(found["abstained_by_reason"].items()))
    table.add_row("abstentions", _share(found["abstained"]) + (f": {reasons}" if reasons else ""))
    for name, value in found["per_round"].items():
        table.add_row(f"a round: {name.replace('_', ' ')}", f"{value:,.6g}")
    return table


def _table(title: str) -> Table:
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    return table


def _share(share: dict[str, Any]) -> str:
    if share["mean"] is None:
        return "-"
    return f"{share['mean']:.2f} [{share['low']:.2f}, {share['high']:.2f}]  ({share['num']} of {share['total']})"


def _number(value: float | None, *, signed: bool = False) -> str:
    return "-" if value is None else format(value, "+.2f" if signed else ".2f")
