"""A line chart as a self-contained SVG, readable in light and dark pages."""

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

_WIDTH, _HEIGHT = 640, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 72, 40, 56, 56
# Told apart by those who see no red or green, too (Okabe and Ito).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")
_STYLE = """
svg { color-scheme: light dark; background: #fff; font: 13px system-ui, sans-serif; }
text { fill: #222; } .grid { stroke: #ddd; } .title { font-size: 15px; font-weight: 600; }
@media (prefers-color-scheme: dark) { svg { background: #16181d; } text { fill: #e6e6e6; } .grid { stroke: #3a3d45; } }
"""


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points of one line, in the order of x; label: "" where it is the only one."""

    label: str
    x: Sequence[float]
    y: Sequence[float]


def line_chart(title: str, lines: Sequence[Line], *, x: str, y: str) -> str:
    """Both axes start at zero; x and y name them with their units."""
    ticks_x, ticks_y = (
        ticks(max(max(values) for values in axis)) for axis in ([v.x for v in lines], [v.y for v in lines])
    )
    parts = [f'<text class="title" x="{_LEFT}" y="24">{html.escape(title)}</text>']
    for value in ticks_y:
        place = _down(value, ticks_y[-1])
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{place + 4:.1f}" text-anchor="end">{value:,g}</text>')
    for value in ticks_x:
        place = _along(value, ticks_x[-1])
        parts.append(f'<text x="{place:.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{value:,g}</text>')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{_HEIGHT - 12}" text-anchor="middle">{html.escape(x)}</text>')
    parts.append(f'<text x="{_LEFT}" y="44">{html.escape(y)}</text>')
    for number, line in enumerate(lines):
        parts += _drawn(line, number, ticks_x[-1], ticks_y[-1])
    box = f'viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" height="{_HEIGHT}" role="img"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {box}>\n<style>{_STYLE}</style>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def ticks(top: float) -> list[float]:
    """Four to nine round numbers from 0 to `top` or a little more."""
    step: float = 10.0 ** math.floor(math.log10(top / 4)) if top > 0 else 0.25
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if step * factor * 8 >= top)
    return [step * number for number in range(math.ceil(top / step - 1e-9) + 1)] if top > 0 else [0.0, 1.0]


def _drawn(line: Line, number: int, most_x: float, most_y: float) -> list[str]:
    colour = _COLOURS[number % len(_COLOURS)]
    points = [(_along(x, most_x), _down(y, most_y)) for x, y in zip(line.x, line.y, strict=True)]
    path = " ".join(f"{across:.1f},{down:.1f}" for across, down in points)
    parts = [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>']
    parts += [f'<circle cx="{across:.1f}" cy="{down:.1f}" r="3.5" fill="{colour}"/>' for across, down in points]
    if line.label:
        across, down = points[-1]
        label = html.escape(line.label)
        parts.append(f'<text x="{across - 8:.1f}" y="{down - 10:.1f}" text-anchor="end">{label}</text>')
    return parts


def _along(value: float, most: float) -> float:
    return _LEFT + value / most * (_WIDTH - _LEFT - _RIGHT)


def _down(value: float, most: float) -> float:
    return _HEIGHT - _BOTTOM - value / most * (_HEIGHT - _TOP - _BOTTOM)
