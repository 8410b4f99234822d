"""`rondo report`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console


def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="HTML file.", show_default="RUN/report.html")] = None,
) -> None:
    """Write what a run did and found as one self-contained HTML file."""
    from orchestrator.report.page import write_report

    Console(stderr=True, soft_wrap=True).print(f"wrote {write_report(run_dir, out)}", highlight=False, markup=False)
