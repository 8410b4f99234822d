"""The command line. Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 stopped on purpose and resumable."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console

from orchestrator.config import RunConfig, load_config
from rollout.errors import RondoError, Stopped, UsageError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Iterative online DPO as one job: generate, judge, learn, repeat.",
)
config_app = typer.Typer(no_args_is_help=True, help="Check, show or explain a configuration.")
bench_app = typer.Typer(no_args_is_help=True, help="Figures of this machine, beside a peer.")
app.add_typer(config_app, name="config")
app.add_typer(bench_app, name="bench")

Config = Annotated[Path, typer.Argument(help="YAML file; configs/ holds examples.", show_default=False)]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="a.b=value, may be repeated.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]


@app.command()
def run(
    config: Config,
    run_dir: Annotated[Path | None, typer.Option(help="Default: runs/<name of the configuration>.")] = None,
    overrides: Overrides = None,
    amend: Annotated[bool, typer.Option(help="Let per-round settings change from the next unopened round on.")] = False,
) -> None:
    """Run, or resume, to the end; prints a table a round."""
    from orchestrator import run as runner

    root = run_dir or Path("runs") / config.stem
    runner.run(load_config(config, overrides), root, amend=amend)


@app.command()
def status(run_dir: Run, as_json: Json = False) -> None:
    """Rounds, stages, pairs, rejects by reason, win rates, seconds."""
    from orchestrator.status import status as read_status
    from orchestrator.status import status_page

    _print_json(read_status(run_dir)) if as_json else _console().print(status_page(run_dir))


@app.command()
def show(
    run_dir: Run,
    round_id: Annotated[int, typer.Option("--round", help="Number of the round.")],
    pairs: Annotated[int, typer.Option(help="How many pairs to print.")] = 20,
    prompt: Annotated[str | None, typer.Option(help="Everything about one prompt, by its id.")] = None,
) -> None:
    """Read pairs, verdicts and completions as a person would."""
    from orchestrator.show import show_pairs, show_prompt
    from orchestrator.status import open_journal

    journal = open_journal(run_dir)
    page = show_prompt(journal, round_id, prompt) if prompt else show_pairs(journal, round_id, num=pairs)
    _console().print(page)


@app.command()
def export(
    run_dir: Run,
    round_id: Annotated[int, typer.Option("--round", help="Number of the round.")],
    out: Annotated[Path, typer.Option(help="A new folder.")],
) -> None:
    """Write a round's policy folder and its pairs as a dataset."""
    from orchestrator.export import export_round
    from orchestrator.status import open_journal

    written = export_round(open_journal(run_dir), round_id, out)
    Console(stderr=True).print(
        f"wrote {out}/policy (v{written['policy_version']}) and {out}/pairs ({written['num_pairs']} pairs)"
    )


@config_app.command("check")
def config_check(config: Config, overrides: Overrides = None) -> None:
    """Load the configuration, its prompts, judge and policy, as `rondo run` would before it starts."""
    from orchestrator.preflight import check_inputs

    inputs = check_inputs(load_config(config, overrides))
    Console(stderr=True).print(f"{config}: good ({len(inputs.prompts)} prompts, {len(inputs.held_out)} held out)")


@config_app.command("show")
def config_show(config: Config, overrides: Overrides = None, as_json: Json = False) -> None:
    """Print the resolved configuration."""
    tree = load_config(config, overrides).model_dump(mode="json")
    _print_json(tree) if as_json else sys.stdout.write(yaml.safe_dump(tree, sort_keys=False))


@config_app.command("schema")
def config_schema(config: Annotated[Path | None, typer.Argument(help="Ignored; the schema is one.")] = None) -> None:
    """Print the JSON schema: every field, its default, and when it may change."""
    _print_json(RunConfig.model_json_schema())


@bench_app.command("rollout")
def bench_rollout(as_json: Json = False) -> None:
    """Generation through Rondo against raw vLLM, alternating, in one run."""
    from orchestrator.bench_rollout import bench_rollout as measure

    _print_bench(measure(), as_json)


@bench_app.command("judge")
def bench_judge(as_json: Json = False) -> None:
    """Requests/s of a language-model judge against a bare AsyncOpenAI loop, both against a stub of 50 ms latency."""
    from orchestrator.bench_judge import bench_judge as measure

    _print_bench(measure(), as_json)


@bench_app.command("loop")
def bench_loop(as_json: Json = False) -> None:
    """Pairs/s of whole rounds, and the seconds in each stage."""
    from orchestrator.bench_loop import bench_loop as measure

    _print_bench(measure(), as_json)


def main() -> None:
    """Entry point of `rondo`: translates errors to one line and an exit code."""
    # The folder that the command is run in is where a user's judge and prompt modules lie.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    console = Console(stderr=True, soft_wrap=True)
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        console.print(f"[red]error:[/] {error}", highlight=False)
        code = 2
    except (Stopped, KeyboardInterrupt) as error:
        console.print(f"[yellow]stopped:[/] {error or 'interrupted; the same command resumes'}", highlight=False)
        code = 3
    except RondoError as error:
        console.print(f"[red]failed:[/] {error}", highlight=False)
        code = 1
    except typer.Exit as done:
        code = done.exit_code
    except typer.Abort:
        code = 3
    except Exception as error:
        if error.__class__.__module__.partition(".")[0] not in ("click", "typer"):
            raise
        show_error = getattr(error, "format_message", None)
        console.print(f"[red]error:[/] {show_error() if show_error else error}", highlight=False, markup=True)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _print_bench(found: dict[str, Any], as_json: bool) -> None:
    from orchestrator.bench import page

    _print_json(found) if as_json else _console().print(page(found))


def _console() -> Console:
    """Standard output as wide as a table wants where it is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


if __name__ == "__main__":
    main()
