"""The report's curves, over rounds and over optimizer steps."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from orchestrator.line_chart import Line, draw
from orchestrator.types import Interval, RoundRecord

if TYPE_CHECKING:
    from orchestrator.scoreboard.ranking import Strength

_MOST_POINTS = 240


def curves(
    records: Sequence[RoundRecord], lines: Sequence[dict[str, Any]], strengths: "Sequence[Strength]"
) -> list[str]:
    """An SVG for each figure that was measured at least once; lines are those of metrics.jsonl."""
    answers = [
        (record.round_id, record.scores.answers) for record in records if record.scores and record.scores.answers
    ]
    steps = list(last_steps(lines).values())
    found = [_win_rates(records)]
    if answers:
        rounds = [float(round_id) for round_id, _ in answers]
        kl = [one.kl_k3 for _, one in answers]
        found.append(
            draw("KL to the base", [Line(label="", x=rounds, y=kl)], x="round", y="nats a token", whole_x=True)
        )
        length = Line(
            label="mean, 10 to 90%",
            x=rounds,
            y=[one.response_length for _, one in answers],
            low=[one.length_p10 for _, one in answers],
            high=[one.length_p90 for _, one in answers],
        )
        found.append(draw("Length of answers", [length], x="round", y="tokens", whole_x=True))
    if strengths:
        rating = Line(
            label="",
            x=[float(one.round_id) for one in strengths],
            y=[one.elo for one in strengths],
            low=[one.elo_low for one in strengths],
            high=[one.elo_high for one in strengths],
        )
        found.append(draw("Strength on one scale", [rating], x="round", y="Elo above the base", whole_x=True))
    found.append(_by_step("Loss", steps, {"": "loss"}, y="mean of a batch"))
    found.append(_by_step("Reward of chosen less rejected", steps, {"": "reward_margin"}, y="reward margin"))
    found.append(_by_step("Chosen above rejected", steps, {"": "reward_accuracy"}, y="share of pairs", top=1.0))
    names = {"chosen": "reward_chosen", "rejected": "reward_rejected"}
    found.append(_by_step("Rewards of both sides", steps, names, y="implicit reward"))
    return [one for one in found if one]


def last_steps(lines: Iterable[dict[str, Any]]) -> dict[tuple[int, int], dict[str, Any]]:
    """Steps of learning in their order; of a step that was taken again after a restart, the last."""
    found = {(one["round"], one["step"]): one for one in lines if one["kind"] == "step" and one["stage"] == "learn"}
    return dict(sorted(found.items()))


def _win_rates(records: Sequence[RoundRecord]) -> str:
    lines = []
    names: tuple[tuple[Literal["judge", "gold"], str], ...] = (("judge", "judge"), ("gold", "gold judge"))
    for judge, label in names:
        rates: list[tuple[int, Interval]] = []
        for record in records:
            standing = record.scores.standing(judge, "base") if record.scores else None
            if standing and standing.win_rate:
                rates.append((record.round_id, standing.win_rate))
        if rates:
            lines.append(
                Line(
                    label=label,
                    x=[float(round_id) for round_id, _ in rates],
                    y=[rate.mean for _, rate in rates],
                    low=[rate.low for _, rate in rates],
                    high=[rate.high for _, rate in rates],
                )
            )
    y = "share won, 95% interval"
    return draw("Win rate against the base", lines, x="round", y=y, whole_x=True, top=1, expected=0.5) if lines else ""


def _by_step(
    title: str, steps: Sequence[dict[str, Any]], names: dict[str, str], *, y: str, top: float | None = None
) -> str:
    lines = []
    for label, name in names.items():
        points = [(number, one[name]) for number, one in enumerate(steps, 1) if one.get(name) is not None]
        if points:
            lines.append(thinned(label, points))
    return draw(title, lines, x="optimizer step", y=y, whole_x=True, top=top) if lines else ""


def thinned(label: str, points: Sequence[tuple[float, float]]) -> Line:
    """A line through all points, or through means of neighbours, in the band between their least and their most."""
    together = -(-len(points) // _MOST_POINTS)
    if together <= 1:
        return Line(label=label, x=[x for x, _ in points], y=[y for _, y in points], marks=len(points) < 40)
    starts = range(0, len(points), together)
    buckets = [tuple(zip(*points[start : start + together], strict=True)) for start in starts]
    return Line(
        label=label,
        x=[sum(x) / len(x) for x, _ in buckets],
        y=[sum(y) / len(y) for _, y in buckets],
        low=[min(y) for _, y in buckets],
        high=[max(y) for _, y in buckets],
        marks=False,
    )
