"""A line chart as SVG, readable in light and dark pages: self-contained, or one of several in a page."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 480, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 62, 48
# Told apart by those who see no red or green, too (Okabe and Ito); the lighter ones are for dark pages.
_COLOURS = (("#0072b2", "#56b4e9"), ("#d55e00", "#e69f00"), ("#009e73", "#2fc79b"), ("#a0528a", "#e29ac8"))
_COLOUR_RULES = "".join(f" .line{number} {{ color: {light}; }}" for number, (light, _) in enumerate(_COLOURS))
_DARK_RULES = "".join(f" .line{number} {{ color: {dark}; }}" for number, (_, dark) in enumerate(_COLOURS))
STYLE = f"""
.chart {{ color-scheme: light dark; background: #fff; font: 14px system-ui, sans-serif; }}
.chart text {{ fill: #222; }} .chart .grid {{ stroke: #ddd; }} .chart .zero {{ stroke: #888; }}
.chart .title {{ font-size: 16px; font-weight: 600; }} .chart .faint {{ fill: #595959; }}
.chart polyline {{ fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }}
.chart circle, .chart rect {{ fill: currentColor; }} .chart .band {{ fill: currentColor; opacity: .16; }}
.chart .expected {{ stroke: #888; stroke-dasharray: 4 4; }}{_COLOUR_RULES}
@media (prefers-color-scheme: dark) {{
.chart {{ background: #16181d; }} .chart text {{ fill: #e6e6e6; }} .chart .grid {{ stroke: #34373f; }}
.chart .faint {{ fill: #a8adb8; }}{_DARK_RULES} }}
"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points of one line, in the order of x; label: "" where it is the only one.

    low and high bound a band around it, a value for each point, where it has one. Without marks it is a line alone.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    marks: bool = True

    @property
    def heights(self) -> list[float]:
        return [*self.y, *self.low, *self.high]


@dataclass(frozen=True)
class _Frame:
    """Where values lie on the picture."""

    ticks_x: Sequence[float]
    ticks_y: Sequence[float]

    def along(self, value: float) -> float:
        first, last = self.ticks_x[0], self.ticks_x[-1]
        return _LEFT + (value - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)

    def down(self, value: float) -> float:
        first, last = self.ticks_y[0], self.ticks_y[-1]
        return _HEIGHT - _BOTTOM - (value - first) / (last - first) * (_HEIGHT - _TOP - _BOTTOM)


def line_chart(title: str, lines: Sequence[Line], *, x: str, y: str) -> str:
    """A file of its own. Both axes show zero; x and y name them with their units."""
    return draw(title, lines, x=x, y=y).replace(">", f">\n<style>{STYLE}</style>", 1) + "\n"


def draw(
    title: str,
    lines: Sequence[Line],
    *,
    x: str,
    y: str,
    whole_x: bool = False,
    top: float | None = None,
    expected: float | None = None,
) -> str:
    """The chart for a page that holds STYLE. Points that are no finite numbers are left out.

    whole_x: x counts something, such as rounds. top: the y axis ends there. expected: a dashed line at this y.
    """
    lines = [_finite(line) for line in lines]
    heights = [value for line in lines for value in line.heights]
    frame = _Frame(
        ticks(max((value for line in lines for value in line.x), default=1.0), whole=whole_x),
        ticks(top or max(heights, default=1.0), min(heights, default=0.0)),
    )
    right = _WIDTH - _RIGHT
    parts = [f'<text class="title" x="{_LEFT}" y="20">{html.escape(title)}</text>']
    parts.append(f'<text class="faint" x="{_LEFT}" y="40">{html.escape(y)}</text>')
    for value in frame.ticks_y:
        place = frame.down(value)
        kind = "zero" if value == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{_LEFT}" x2="{right}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{value:,.6g}</text>')
    for value in frame.ticks_x:
        place = frame.along(value)
        parts.append(f'<text x="{place:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{value:,.6g}</text>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="faint" x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{html.escape(x)}</text>')
    if expected is not None:
        place = frame.down(expected)
        parts.append(f'<line class="expected" x1="{_LEFT}" x2="{right}" y1="{place:.1f}" y2="{place:.1f}"/>')
    for number, line in enumerate(lines):
        parts += _drawn(line, number % len(_COLOURS), frame)
    parts += _legend([line.label for line in lines])
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}"'
    named = f'role="img" aria-label="{html.escape(title)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" {box} {named}>\n' + "\n".join(parts) + "\n</svg>"


def ticks(top: float, bottom: float = 0.0, *, whole: bool = False) -> list[float]:
    """Two to ten round numbers that span zero, `bottom` and `top`; whole: integers."""
    top, bottom = max(top, 0.0), min(bottom, 0.0)
    span = top - bottom
    if span <= 0:
        return [0.0, 1.0]
    step: float = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if step * factor * 8 >= span)
    if whole:
        step = max(1.0, float(math.ceil(step)))
    first, last = math.floor(bottom / step + 1e-9), math.ceil(top / step - 1e-9)
    return [step * number for number in range(first, last + 1)]


def _drawn(line: Line, number: int, frame: _Frame) -> list[str]:
    points = [(frame.along(x), frame.down(y)) for x, y in zip(line.x, line.y, strict=True)]
    parts = [f'<g class="line{number}">']
    if line.low:
        edges = [*zip(line.x, line.high, strict=True), *reversed(list(zip(line.x, line.low, strict=True)))]
        parts.append(f'<polygon class="band" points="{_path([(frame.along(x), frame.down(y)) for x, y in edges])}"/>')
    parts.append(f'<polyline points="{_path(points)}"/>')
    for place, (across, down) in enumerate(points if line.marks or len(points) == 1 else []):
        said = f"{line.label} {line.y[place]:,.4g}".strip()
        said += f" [{line.low[place]:,.4g}, {line.high[place]:,.4g}]" if line.low else ""
        mark = f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3.5">'
        parts.append(f"{mark}<title>{html.escape(said)} at {line.x[place]:,g}</title></circle>")
    return [*parts, "</g>"]


def _legend(labels: Sequence[str]) -> list[str]:
    """Names of the lines in one row above the picture, from the right."""
    parts, edge = [], float(_WIDTH - _RIGHT)
    for number, label in reversed(list(enumerate(labels))):
        if label:
            parts.append(f'<text x="{edge:.0f}" y="40" text-anchor="end">{html.escape(label)}</text>')
            edge -= 7.6 * len(label) + 10
            parts.append(f'<rect class="line{number % len(_COLOURS)}" x="{edge - 5:.0f}" y="31" width="9" height="9"/>')
            edge -= 16
    return parts


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{across:.1f},{down:.1f}" for across, down in points)


def _finite(line: Line) -> Line:
    bands = zip(line.low or line.y, line.high or line.y, strict=True)
    rows = [
        (x, y, low, high)
        for x, y, (low, high) in zip(line.x, line.y, bands, strict=True)
        if all(map(math.isfinite, (x, y, low, high)))
    ]
    x, y, low, high = ([row[place] for row in rows] for place in range(4))
    return Line(
        label=line.label, x=x, y=y, low=low if line.low else (), high=high if line.low else (), marks=line.marks
    )
