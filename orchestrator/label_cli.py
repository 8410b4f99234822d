"""`rondo label`: the commands of the labelling queue."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console

from orchestrator.printing import print_json, standard_output
from rollout.errors import UsageError

if TYPE_CHECKING:
    from orchestrator.labelling import Queue

label_app = typer.Typer(no_args_is_help=True, help="People as the judge: their page and their queue.")

Config = Annotated[Path, typer.Argument(help="YAML file with judge: {kind: human}.", show_default=False)]
RunDir = Annotated[Path | None, typer.Option(help="Default: runs/<name of the configuration>.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="a.b=value, may be repeated.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]
Round = Annotated[int, typer.Option("--round", help="Number of the round.")]
Purpose = Annotated[str, typer.Option(help="pairs, held_out or previous.")]
RunId = Annotated[str | None, typer.Option(help="Which run's, where several share the queue.", show_default=False)]
Format = Literal["jsonl", "parquet", "label_studio", "argilla"]


@label_app.command()
def serve(config: Config, run_dir: RunDir = None, overrides: Overrides = None) -> None:
    """Serve the labelling page, apart from any run, until Ctrl-C."""
    from orchestrator.labelling import serve_page

    serve_page(_open(config, run_dir, overrides), Console(stderr=True, soft_wrap=True))


@label_app.command()
def status(config: Config, run_dir: RunDir = None, overrides: Overrides = None, as_json: Json = False) -> None:
    """How far each round of the queue is."""
    from orchestrator.labelling import queue_status, queue_table

    found = queue_status(_open(config, run_dir, overrides))
    print_json(found) if as_json else standard_output().print(queue_table(found))


@label_app.command()
def administrator(config: Config, run_dir: RunDir = None, overrides: Overrides = None) -> None:
    """Make a link with which somebody becomes an administrator; the first one comes from here."""
    from orchestrator.labelling import administrator_link

    typer.echo(administrator_link(_open(config, run_dir, overrides)))


@label_app.command()
def invite(
    config: Config,
    num: Annotated[int, typer.Option(help="How many links.", min=1, max=1000)] = 1,
    note: Annotated[str, typer.Option(help="Who they are for.")] = "",
    run_dir: RunDir = None,
    overrides: Overrides = None,
) -> None:
    """Make links for annotators, each good once; an administrator can make them on the page, too."""
    from orchestrator.labelling import annotator_links

    for link in annotator_links(_open(config, run_dir, overrides), num, note):
        typer.echo(link)


@label_app.command()
def seal(
    config: Config,
    round_id: Round,
    purpose: Purpose = "pairs",
    run_id: RunId = None,
    run_dir: RunDir = None,
    overrides: Overrides = None,
) -> None:
    """Seal a round now, whatever is missing: what is unsettled goes to the fallback, or is dropped and counted."""
    from judge.human.rounds import Rounds
    from orchestrator.labelling import find_round

    queue = _open(config, run_dir, overrides)
    view = Rounds(queue.database).seal(find_round(queue, round_id, purpose, run_id).row_id, "rondo label seal")
    _say(f"round {round_id} is sealed: {view.num_resolved} of {view.num_tasks} pairs settled, sha256 {view.sha256}")


@label_app.command()
def export(
    config: Config,
    round_id: Round,
    out: Annotated[Path, typer.Option(help="A new file, or a new folder for label_studio and argilla.")],
    form: Annotated[Format, typer.Option("--format", help="Of the file.")] = "jsonl",
    what: Annotated[Literal["labels", "pairs"], typer.Option(help="A row a label, or a row a pair.")] = "labels",
    purpose: Purpose = "pairs",
    run_id: RunId = None,
    run_dir: RunDir = None,
    overrides: Overrides = None,
) -> None:
    """Write a round's pairs and labels for other tools, or for a notebook."""
    from judge.human.formats import export_round
    from orchestrator.labelling import find_round

    queue = _open(config, run_dir, overrides)
    row_id = find_round(queue, round_id, purpose, run_id).row_id
    if out.exists():
        raise UsageError(f"{out} exists already; give another --out, or remove it")
    done = export_round(queue.database, row_id, out, form, what=what)
    left = f"; {done.num_labels_left_out} labels stay here" if done.num_labels_left_out else ""
    _say(f"wrote {done.num_rows} rows to {out}{left}")


@label_app.command("import")
def import_(
    config: Config,
    round_id: Round,
    file: Annotated[str, typer.Option(help="What another tool exported.")],
    form: Annotated[Format, typer.Option("--format", help="Of the file.")] = "jsonl",
    purpose: Purpose = "pairs",
    run_id: RunId = None,
    run_dir: RunDir = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Take over labels that were made elsewhere; what cannot be used is counted by reason."""
    from judge.human.formats import import_labels
    from orchestrator.labelling import find_round

    queue = _open(config, run_dir, overrides)
    row_id = find_round(queue, round_id, purpose, run_id).row_id
    found = import_labels(queue.database, row_id, Path(file), form, by="rondo label import")
    rest = ", ".join(f"{reason} {num}" for reason, num in found.num_refused.items()) or "none"
    if as_json:
        print_json(asdict(found))
    else:
        _say(f"took {found.num_labels} labels; left out: {rest}")


def _open(config: Path, run_dir: Path | None, overrides: list[str] | None) -> "Queue":
    from orchestrator.labelling import open_queue

    return open_queue(config, run_dir, overrides)


def _say(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(text, highlight=False)
