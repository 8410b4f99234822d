"""`rondo run CONFIG --rehearse`: the run's own stages, journal and loop, on a few prompts, in a folder of their own."""

import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from rich.console import Console

from orchestrator.config import RunConfig
from orchestrator.preflight import Inputs, check_inputs
from orchestrator.rehearsal.shrunk import STAND_INS, changed, shrunk
from orchestrator.rehearsal.verdicts import Verdict, failed, passed, read_verdicts, table
from orchestrator.rehearsal.watch import Watch
from orchestrator.run import attempt, make_observer, refuse_ephemeral
from orchestrator.rundir import open_run
from orchestrator.status import open_journal, read_metrics
from rollout.errors import Stopped

_ORDER = (
    "placement",
    "base policy",
    "judge start",
    "engine start",
    "generation",
    "judge",
    "learner start",
    "engine against learner",
    "learning",
    "publication",
    "weight sync",
    "evaluation",
    "resume",
)


def rehearse(config: RunConfig, root: Path, *, console: Console | None = None) -> bool:
    """Try every stage beside `root`, print a verdict on each, and leave nothing behind; whether all of them work.

    A part that fails is named, and a stand-in takes its place so that the others are tried. Raises UsageError for what
    `rondo run` would refuse, and Stopped.
    """
    refuse_ephemeral(root)
    check_inputs(config)
    tiny, left_out = shrunk(config)
    inputs = check_inputs(tiny)
    console = console or Console(stderr=True, width=None if Console(stderr=True).is_terminal else 120)
    found: dict[str, Verdict] = {}
    parent = _existing_parent(root)
    folder = Path(tempfile.mkdtemp(prefix=f".{root.name}-rehearsal-", dir=parent))
    try:
        tried: list[str] = []
        while (part := _try(tiny, inputs, folder / str(len(tried)), found, console)) in STAND_INS and part not in tried:
            tried.append(part)
            console.print(f"{part} failed; going on without it", style="yellow", highlight=False)
            tiny = changed(tiny, STAND_INS[part])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    verdicts = _complete(found, tiny, left_out)
    console.print(table(verdicts))
    return all(one.verdict in ("ok", "slow", "left out") for one in verdicts)


def _try(config: RunConfig, inputs: Inputs, root: Path, found: dict[str, Verdict], console: Console) -> str:
    """Run the tiny run, then again with one more round from what it left on disk; the part that failed, or ""."""
    watch, part, said = _run(config, inputs, root, console)
    records = open_journal(root).records() if (root / "config.json").exists() else []
    # Where the judge gave no pair, nothing was learnt, and its stand-in shows how the parts behind it do.
    without_pairs = not part and not records[0].num_pairs
    behind = _ORDER[_ORDER.index("judge") + 1 :] if without_pairs else ()
    for verdict in read_verdicts(root, records, read_metrics(root), watch).values():
        if verdict.part not in behind:
            found.setdefault(verdict.part, verdict)
    if part:
        found.setdefault(part, failed(part, said))
        return part
    if without_pairs:
        return "judge"
    further = changed(config, {"num_rounds": config.num_rounds + 1})
    _, part, said = _run(further, inputs, root, console)
    found["resume"] = failed("resume", f"{part}: {said}") if part else _resumed(root)
    return ""


def _resumed(root: Path) -> Verdict:
    last = open_journal(root).records()[-1]
    starts = [line for line in read_metrics(root) if line["kind"] == "stage" and line["stage"] == "start"]
    said = f"round {last.round_id} went on from v{last.policy_in.version} to v{last.policy_out.version}"
    return passed("resume", starts[-1]["seconds"], said)


def _run(config: RunConfig, inputs: Inputs, root: Path, console: Console) -> tuple[Watch, str, str]:
    """One attempt of a run in this folder; the part that failed and why, "" where none did."""
    root.mkdir(exist_ok=True)
    run_dir = open_run(root, config)
    with closing(make_observer(run_dir, Console(quiet=True))) as observer:
        watch = Watch(run_dir.config, observer, console)
        observer.attach(watch)
        try:
            attempt(run_dir, inputs, observer)
        except Stopped:
            if watch.fits:
                raise
            return watch, "placement", "it does not fit"
        except Exception as error:  # whatever it is, it is what the rehearsal is for
            return watch, watch.part(error), f"{type(error).__name__}: {error}".partition("\n")[0]
    return watch, "", ""


def _complete(found: dict[str, Verdict], config: RunConfig, left_out: list[str]) -> list[Verdict]:
    """The verdicts in the order of a round, with those on parts that were not reached."""
    unneeded = {"base policy"}
    if not config.evaluation.prompts:
        unneeded.add("evaluation")
    if not config.probe.num_completions:
        unneeded.add("engine against learner")
    verdicts = []
    for part in _ORDER:
        if part in found:
            verdicts.append(found[part])
        elif part not in unneeded:
            verdicts.append(Verdict(part=part, verdict="not reached", seconds=None, found=""))
    verdicts += [Verdict(part=name, verdict="left out", seconds=None, found="") for name in left_out]
    return verdicts


def _existing_parent(root: Path) -> Path:
    """The folder that the run directory will lie in, or the nearest one above it that exists."""
    return next(folder for folder in root.resolve().parents if folder.is_dir())
