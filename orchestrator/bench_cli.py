"""`rondo bench`: figures of this machine, each beside a peer where one is installed."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from orchestrator.printing import print_json, standard_output

bench_app = typer.Typer(no_args_is_help=True, help="Figures of this machine, beside a peer.")

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output, nothing else there.")]


@bench_app.command("rollout")
def bench_rollout(as_json: Json = False) -> None:
    """Generation through Rondo against raw vLLM, alternating, in one run."""
    from orchestrator.bench_rollout import bench_rollout as measure

    _print_bench(measure(), as_json)


@bench_app.command("learner")
def bench_learner(
    as_json: Json = False,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="cuda: only the share of a GPU's peak.")] = "cpu",
    shape: Annotated[Literal["1b", "8b", "both"], typer.Option(help="Llama of --device cuda.")] = "both",
    plots: Annotated[Path | None, typer.Option(help="Measure length and vocabulary, too; pictures go here.")] = None,
) -> None:
    """Pairs a second, step over floor, memory and losses of the learner, beside TRL's DPOTrainer."""
    from orchestrator.bench_learner import bench_learner as measure
    from orchestrator.bench_learner import bench_learner_gpu
    from orchestrator.bench_learner_plots import with_plots

    found = bench_learner_gpu(("1b", "8b") if shape == "both" else (shape,)) if device == "cuda" else measure()
    _print_bench(found if plots is None else with_plots(found, plots), as_json)


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


@bench_app.command("reward")
def bench_reward(as_json: Json = False) -> None:
    """A reward model as a judge against a bare transformers loop, alternating, in one run."""
    from orchestrator.bench_reward import bench_reward as measure

    _print_bench(measure(), as_json)


@bench_app.command("cluster")
def bench_cluster(as_json: Json = False) -> None:
    """Generation over 1, 2, 4 and 8 simulated engines, beside a linear increase."""
    from orchestrator.bench_cluster import bench_cluster as measure

    _print_bench(measure(), as_json)


@bench_app.command("plan")
def bench_plan(as_json: Json = False) -> None:
    """Measure a profile for `rondo plan` on small runs, and hold its prediction against a run of another size."""
    from orchestrator.bench_plan import bench_plan as measure

    _print_bench(measure(), as_json)


@bench_app.command("driver")
def bench_driver(
    as_json: Json = False,
    pairs: Annotated[
        list[int] | None, typer.Option(help="Pairs of a large round, may be repeated.", show_default="100k and 1M")
    ] = None,
) -> None:
    """Bookkeeping of a tiny round, and the driver's time and memory in rounds of very many pairs."""
    from orchestrator.bench_driver import NUM_PAIRS
    from orchestrator.bench_driver import bench_driver as measure

    _print_bench(measure(num_pairs=tuple(pairs or NUM_PAIRS)), as_json)


@bench_app.command("sync")
def bench_sync(
    as_json: Json = False,
    rounds: Annotated[bool, typer.Option(help="Also whole rounds, for the share of them that it takes.")] = True,
) -> None:
    """New weights by each road at 60 M parameters, against memcpy of the same bytes."""
    from orchestrator.bench_sync import bench_sync as measure

    _print_bench(measure(rounds=rounds), as_json)


@bench_app.command("overlap")
def bench_overlap(
    as_json: Json = False,
    real: Annotated[bool, typer.Option("--real", help="Also real stages, a core each for two of them.")] = False,
) -> None:
    """Rounds with a policy lag of 1 against the longer of what then runs side by side."""
    from orchestrator.bench_overlap import bench_overlap as measure

    _print_bench(measure(real=real), as_json)


@bench_app.command("label")
def bench_label(
    queue_url: Annotated[
        str | None, typer.Option(help="An empty PostgreSQL database; without it a SQLite file.", show_default=False)
    ] = None,
    pairs: Annotated[int, typer.Option(help="Pairs to label.", min=100)] = 20_000,
    as_json: Json = False,
) -> None:
    """200 simulated annotators on the labelling page, whose server is killed three times meanwhile."""
    from orchestrator.bench_label import Load
    from orchestrator.bench_label import bench_label as measure

    _print_bench(measure(queue_url, Load(num_pairs=pairs)), as_json)


def _print_bench(found: dict[str, Any], as_json: bool) -> None:
    from orchestrator.bench import page

    print_json(found) if as_json else standard_output().print(page(found))
