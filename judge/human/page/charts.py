"""Pictures of the administration's pages as numbers; templates draw them as SVG and tables, without a script."""

from collections.abc import Sequence
from dataclasses import dataclass

from judge.human.agreement import Agreement

_MAX_NAMES = 12  # columns of an agreement matrix that a person can still read
_LEVELS = (0.2, 0.4, 0.6, 0.8)  # shades of kappa, at the bounds of Landis and Koch (1977)


@dataclass(frozen=True, kw_only=True)
class Bar:
    """One column: its rectangle in the units of the view box."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Bars:
    """A bar chart: bars, and where axis and labels stand."""

    bars: tuple[Bar, ...]
    highest: int
    summary: str
    from_label: str
    width: int = 720
    height: int = 180
    left: int = 44
    top: int = 14
    base: int = 148


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Two annotators: kappa as shown, its shade (0 to 5; 9 where there is none), and pairs that both labelled."""

    kappa: str
    level: int
    num_common: int


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Agreement of each two annotators, rows and columns in the same order."""

    names: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    num_left_out: int


def bars(counts: Sequence[int], bucket_s: float) -> Bars:
    """Labels in each bucket of time, oldest first, the last one ending now."""
    highest = max(counts, default=0)
    chart = Bars(bars=(), highest=max(highest, 1), summary="", from_label="")
    step = (chart.width - chart.left) / max(len(counts), 1)
    scale = (chart.base - chart.top) / chart.highest
    bucket_min, span_min = bucket_s / 60, len(counts) * bucket_s / 60
    made = tuple(
        Bar(
            x=round(chart.left + i * step + step * 0.15, 2),
            y=round(chart.base - count * scale, 2),
            width=round(step * 0.7, 2),
            height=round(count * scale, 2),
            title=f"{count} labels, up to {(len(counts) - i) * bucket_min:g} min ago",
        )
        for i, count in enumerate(counts)
        if count
    )
    total = sum(counts)
    pace = f", {total / span_min:.1f} a minute" if total and span_min else ""
    summary = f"{total:,} labels in the last {span_min:g} minutes{pace}; each column is {bucket_min:g} min"
    return Bars(bars=made, highest=chart.highest, summary=summary, from_label=f"{span_min:g} min ago")


def matrix(agreement: Agreement, names: dict[int, str]) -> Matrix:
    """The annotators with the most pairs in common with others, by name."""
    found = {}
    common: dict[int, int] = {}
    for pair in agreement.pairs:
        found[pair.first, pair.second] = found[pair.second, pair.first] = pair
        for annotator_id in (pair.first, pair.second):
            common[annotator_id] = common.get(annotator_id, 0) + pair.num_common
    most = sorted((i for i in common if common[i]), key=lambda i: (-common[i], names[i]))
    shown = sorted(most[:_MAX_NAMES], key=lambda i: names[i])

    def cell(row: int, column: int) -> Cell:
        pair = found.get((row, column))
        if row == column or pair is None or not pair.num_common:
            return Cell(kappa="", level=9, num_common=0)
        if pair.kappa is None:
            return Cell(kappa="–", level=9, num_common=pair.num_common)
        level = sum(pair.kappa >= bound for bound in _LEVELS)
        return Cell(kappa=f"{pair.kappa:.2f}".replace("-", "−"), level=level, num_common=pair.num_common)

    return Matrix(
        names=tuple(names[i] for i in shown),
        rows=tuple(tuple(cell(row, column) for column in shown) for row in shown),
        num_left_out=len(most) - len(shown),
    )
