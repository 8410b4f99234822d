"""The command line. Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 stopped on purpose and resumable."""

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from rich.console import Console
from typer.core import TyperGroup

from orchestrator.bench_cli import bench_app
from orchestrator.config import RunConfig, load_config
from orchestrator.fork_cli import fork
from orchestrator.label_cli import label_app
from orchestrator.plan.command import plan
from orchestrator.printing import print_json, standard_output
from orchestrator.report.command import report
from rollout.errors import RondoError, Stopped, UsageError, is_disk_full

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Iterative online DPO as one job: generate, judge, learn, repeat.",
)


class _JudgeByDefault(TyperGroup):
    """`rondo judge CONFIG` judges; `rondo judge audit CONFIG` is a command of its own."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        return super().resolve_command(ctx, args if args and args[0] in self.commands else ["completions", *args])


judge_app = typer.Typer(
    cls=_JudgeByDefault, no_args_is_help=True, help="Judge completions that exist already, or audit a judge."
)
config_app = typer.Typer(no_args_is_help=True, help="Check, show or explain a configuration.")
app.add_typer(config_app, name="config")
app.add_typer(judge_app, name="judge")
app.add_typer(bench_app, name="bench")
app.add_typer(label_app, name="label")
reward_model_app = typer.Typer(no_args_is_help=True, help="Reward models out of preference pairs.")
app.add_typer(reward_model_app, name="reward-model")
app.command()(fork)
app.command()(report)
app.command()(plan)

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
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="One tiny round through every stage beside it, a verdict on each.")
    ] = False,
) -> None:
    """Run, or resume, to the end; prints a table a round."""
    from orchestrator import run as runner

    root = run_dir or Path("runs") / config.stem
    if rehearse:
        from orchestrator.rehearsal.rehearse import rehearse as works

        raise typer.Exit(0 if works(load_config(config, overrides), root) else 1)
    runner.run(load_config(config, overrides), root, amend=amend)


@app.command()
def status(run_dir: Run, as_json: Json = False) -> None:
    """Rounds, stages, pairs, rejects by reason, win rates, seconds."""
    from orchestrator.status import status as read_status
    from orchestrator.status import status_page

    print_json(read_status(run_dir)) if as_json else standard_output().print(status_page(run_dir))


@app.command()
def top(run_dir: Run, once: Annotated[bool, typer.Option("--once", help="Print one page and leave.")] = False) -> None:
    """Watch a run: stage, speed, learning and rounds, drawn again every second until it ends."""
    from orchestrator.telemetry.top import watch

    watch(run_dir, standard_output(), once=once)


@app.command()
def timeline(
    run_dir: Run,
    round_id: Annotated[int, typer.Option("--round", help="Number of the round.")],
    out: Annotated[Path, typer.Option(help="A new file, for instance round.json.", show_default=False)],
    as_json: Json = False,
) -> None:
    """What overlapped and what idled in a round, as a Chrome trace (ui.perfetto.dev opens it)."""
    from orchestrator.telemetry.timeline import timeline_page, write_timeline

    found = write_timeline(run_dir, round_id, out)
    print_json(found) if as_json else standard_output().print(timeline_page(found))


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
    standard_output().print(page)


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


@app.command()
def winrate(
    file: Annotated[Path, typer.Argument(help="Annotations: parquet, json, jsonl or csv.", show_default=False)],
    as_json: Json = False,
) -> None:
    """Plain and length-controlled win rate of an annotation file, with intervals."""
    from orchestrator.scoreboard.annotations import win_rate_page, win_rates

    figures = win_rates(file)
    print_json(figures) if as_json else standard_output().print(win_rate_page(figures))


@judge_app.command("completions", help="The default: rondo judge CONFIG --groups FILE --out DIR.")
def judge_completions(
    config: Config,
    groups: Annotated[str, typer.Option(help="File of prompts with completions, or a round's groups folder.")],
    out: Annotated[Path, typer.Option(help="Folder for verdicts and pairs; what is finished there is kept.")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Judge completions that exist already; writes the same shards as a run."""
    from orchestrator.judging import judge_given
    from orchestrator.judging_tables import judged_table

    found = judge_given(config, groups, out, overrides)
    print_json(found) if as_json else standard_output().print(judged_table(found))


@judge_app.command("audit")
def judge_audit(
    config: Config,
    labels: Annotated[str, typer.Option(help="File of prompts with two answers and your label (a, b or tie).")],
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Hold a judge against your own labels before money is spent."""
    from orchestrator.judging import audit_judge
    from orchestrator.judging_tables import audit_table

    found = audit_judge(config, labels, overrides)
    print_json(found) if as_json else standard_output().print(audit_table(found))


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
    print_json(tree) if as_json else sys.stdout.write(yaml.safe_dump(tree, sort_keys=False))


@config_app.command("schema")
def config_schema(config: Annotated[Path | None, typer.Argument(help="Ignored; the schema is one.")] = None) -> None:
    """Print the JSON schema: every field, its default, and when it may change."""
    print_json(RunConfig.model_json_schema())


@reward_model_app.callback()
def reward_model() -> None:
    """Reward models out of preference pairs."""


@reward_model_app.command("fit")
def reward_model_fit(
    sources: Annotated[
        list[str], typer.Argument(metavar="DATA...", help="Runs, pair shards, or preference files.", show_default=False)
    ],
    model: Annotated[str, typer.Option(help="Policy to start from: folder or hub name.", show_default=False)],
    out: Annotated[Path, typer.Option(help="A new folder.", show_default=False)],
    epochs: Annotated[int | None, typer.Option(help="Passes over the pairs.", show_default="1")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="At its peak.", show_default="1e-5")] = None,
    batch_pairs: Annotated[int | None, typer.Option(help="Pairs an optimizer step.", show_default="64")] = None,
    held_out_share: Annotated[float | None, typer.Option(help="Of the pairs, by prompt.", show_default="0.1")] = None,
    seed: Annotated[int | None, typer.Option(help="Of split, order and head.", show_default="17")] = None,
    freeze_embeddings: Annotated[bool, typer.Option(help="Leave words as they are: for few pairs.")] = False,
    max_pairs: Annotated[int | None, typer.Option(help="Use no more pairs.", show_default="all")] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a dialogue.", show_default="context")] = None,
    as_json: Json = False,
) -> None:
    """Fit a Bradley-Terry reward model; prints its held-out accuracy and calibration."""
    from orchestrator.reward_model import fit, page

    report = fit(
        sources,
        model=model,
        out=out,
        console=Console(stderr=True),
        num_epochs=epochs,
        learning_rate=learning_rate,
        batch_pairs=batch_pairs,
        held_out_share=held_out_share,
        seed=seed,
        freeze_embeddings=freeze_embeddings,
        max_pairs=max_pairs,
        max_length=max_length,
    )
    print_json(report) if as_json else standard_output().print(page(report))


def main() -> None:
    """Entry point of `rondo`: translates errors to one line and an exit code."""
    # The folder that the command is run in is where a user's judge and prompt modules lie.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("GOMP_SPINCOUNT", "20000")  # threads that wait do not starve others on the machine
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
        if is_disk_full(error):
            console.print(f"[red]failed:[/] {error}; free some space, and the same command resumes", highlight=False)
            sys.exit(1)
        if error.__class__.__module__.partition(".")[0] not in ("click", "typer"):
            raise
        show_error = getattr(error, "format_message", None)
        console.print(f"[red]error:[/] {show_error() if show_error else error}", highlight=False, markup=True)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


if __name__ == "__main__":
    main()
