"""Rounds and samples as a person reads them in a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from rich.console import Group
from rich.table import Table
from rich.text import Text

from orchestrator.types import Interval, RoundRecord, RoundScores

if TYPE_CHECKING:  # scipy takes seconds to import, and a run starts without it
    from orchestrator.scoreboard.ranking import Strength

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
    answers = scores.answers if scores else None
    metrics = update.metrics if update else {}
    trained = bool(update and update.num_steps)
    rejected = ", ".join(f"{reason} {num}" for reason, num in sorted(record.all_rejected.items())) or "-"
    return [
        str(record.round_id),
        f"v{record.policy_in.version}>v{update.policy_out.version}" if update else f"v{record.policy_in.version}",
        str(record.num_pairs or record.num_unpaired),  # KTO may learn from answers by themselves alone
        rejected,
        _number(metrics.get("reward_margin"), "+.3f") if trained else "-",
        _number(metrics.get("reward_accuracy"), ".2f") if trained else "-",
        _number(metrics.get("published_share"), ".0%") if trained else "-",
        _number(answers.kl_k3 if answers else None, ".3f"),
        _number(answers.response_length if answers else None, ".0f"),
        interval(scores.win_rate) if scores and scores.win_rate else "-",
    ]


def scoreboard_table(records: Sequence[RoundRecord], strengths: "Sequence[Strength]" = ()) -> Table | None:
    """What evaluation found beyond the headline, one row a round; None where nothing was evaluated."""
    evaluated = [record for record in records if record.scores and record.scores.standings]
    if not evaluated:
        return None
    table = Table(header_style="bold", pad_edge=False, box=None, title_justify="left", title_style="bold")
    table.title = "scoreboard on held-out prompts; accuracy is the implicit reward's"
    gold = any(
        {one.judge for one in record.scores.standings} >= {"judge", "gold"} for record in evaluated if record.scores
    )
    names = ["round", "equal length", "vs previous round", *(["gold judge"] if gold else []), "Elo", "accuracy"]
    names += ["length 10/50/90", "cut off", "distinct", "BLEU"]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    by_round = {strength.round_id: strength for strength in strengths}
    for record in evaluated:
        assert record.scores is not None
        table.add_row(*_scoreboard_row(record.round_id, record.scores, by_round.get(record.round_id), gold=gold))
    return table


def _scoreboard_row(round_id: int, scores: RoundScores, strength: "Strength | None", *, gold: bool) -> list[str]:
    ours, before = scores.standing(scores.headline, "base"), scores.standing(scores.headline, "previous")
    other = None
    if gold:
        other = scores.standing("gold", "base")
    answers, accuracy = scores.answers, scores.implicit_accuracy
    lengths = f"{answers.length_p10:.0f}/{answers.length_p50:.0f}/{answers.length_p90:.0f}" if answers else "-"
    return [
        str(round_id),
        f"{ours.length_controlled.mean:.2f}" if ours and ours.length_controlled else "-",
        interval(before.win_rate) if before and before.win_rate else "-",
        *([interval(other.win_rate) if other and other.win_rate else "-"] if gold else []),
        f"{strength.elo:+.0f}" if strength else "-",
        f"{accuracy.mean:.2f}" if accuracy else "-",
        lengths,
        _number(answers.truncation_rate if answers else None, ".0%"),
        _number(answers.distinct_2 if answers else None, ".2f"),
        _number(answers.self_bleu if answers else None, ".2f"),
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
