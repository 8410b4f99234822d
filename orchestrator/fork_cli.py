"""`rondo fork`: its command line."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from orchestrator.printing import print_json


def fork(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.", show_default=False)],
    round_id: Annotated[
        int,
        typer.Option(
            "--round",
            min=0,
            help="N: rounds before N are kept, and round N begins again with the policy that it began with in RUN; "
            "0 keeps the base alone.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option(help="The new run directory.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="a.b=value, holds from round N on.", show_default=False)
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")
    ] = False,
) -> None:
    """Make a new run from a round of an old one: its rounds before N, its base as reference, the learner's state.

    Everything may change by --set, seed and templates included, but not the base policy.
    """
    from orchestrator.fork import SETTINGS_FILE, fork_run

    console = Console(stderr=True, soft_wrap=True)
    run = fork_run(
        run_dir,
        out,
        round_id=round_id,
        overrides=overrides or [],
        warn=lambda text: console.print(f"[yellow]warning:[/] {text}", highlight=False),
    )
    parent = run.file.parent
    assert parent is not None
    if as_json:
        print_json({"run_dir": str(run.root), "run_id": run.run_id, "parent": parent.summary})
        return
    console.print(
        f"forked {parent.run_id} at round {parent.round_id} as {run.run_id} (policy v{parent.policy.version}, learner "
        f"state: {parent.learner_state}); go on with\nrondo run {out / SETTINGS_FILE} --run-dir {out}",
        highlight=False,
    )
