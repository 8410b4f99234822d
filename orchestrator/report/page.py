"""`rondo report`: a run as one HTML file that loads nothing and runs nothing."""

import math
import re
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from orchestrator.line_chart import STYLE
from orchestrator.report.contents import contents, without_addresses
from orchestrator.types import Interval
from rollout.errors import UsageError
from rollout.shards import write_bytes

_DASH = "–"
_LONGEST = 6000
# What no HTML file may hold: control characters but tab and line ends, halves of surrogate pairs, non-characters.
_UNFIT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


def write_report(root: Path, out: Path | None = None) -> Path:
    """Write the report of a run, by default to RUN/report.html; where it lies.

    Raises UsageError if `root` is no run, or the file cannot be written.
    """
    path = out or root / "report.html"
    if path.is_dir():
        raise UsageError(f"--out {path} is a folder; give the name of a file, such as {path / 'report.html'}")
    page = report(root)
    try:
        write_bytes(path, page.encode())
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}; give another --out") from error
    return path


def report(root: Path) -> str:
    """The page. Whatever a policy, a judge or a person wrote stands in it as text."""
    environment = Environment(
        loader=PackageLoader("orchestrator.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number, interval=interval, reasons=reasons, cut=cut, without_addresses=without_addresses
    )
    page = environment.get_template("report.html").render(chart_style=STYLE, **contents(root))
    return _UNFIT.sub("\N{REPLACEMENT CHARACTER}", page)


def number(value: float | None, form: str = ",.0f") -> str:
    """A figure, or a dash where there is none."""
    return _DASH if value is None or not math.isfinite(value) else format(value, form)


def interval(value: Interval | None) -> str:
    """A mean with its 95% interval, or a dash."""
    return _DASH if value is None else f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}]"


def reasons(counts: Mapping[str, float]) -> str:
    """Counts by reason in words."""
    return ", ".join(f"{reason} {num:,g}" for reason, num in sorted(counts.items())) or _DASH


def cut(text: str | None) -> str:
    """The text, or as much of it as somebody reads in a report, and how much there was."""
    text = (text or "").strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} [... {len(text):,} characters in all]"
