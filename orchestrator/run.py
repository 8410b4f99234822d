"""`rondo run`: check everything, start the stages, run the loop."""

import shutil
import signal
import sys
from contextlib import closing, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console

from learner.check import check_learner
from orchestrator.base import BASE_PATH, existing_base, existing_manifest, link_base, record_base
from orchestrator.changes import flatten
from orchestrator.cluster.connect import Started, connect
from orchestrator.cluster.learner import RayLearner
from orchestrator.cluster.metrics import RayMetrics, wants_metrics
from orchestrator.cluster.session import start_ray, stop_ray
from orchestrator.config import RunConfig
from orchestrator.journal import Journal
from orchestrator.lock import lock_run
from orchestrator.loop import run_rounds
from orchestrator.observer import Observer
from orchestrator.people import prepare_queue
from orchestrator.preflight import Inputs, check_encoder, check_inputs
from orchestrator.report.page import write_report
from orchestrator.retention import refuse_deleted
from orchestrator.rundir import RunDir, open_run
from orchestrator.scoreboard.standings import rank_rounds
from orchestrator.show import before_and_after
from orchestrator.tables import samples, scoreboard_table
from orchestrator.telemetry.json_log import JsonLog
from orchestrator.telemetry.trackers import trackers_of
from orchestrator.telemetry.webhooks import Webhooks, webhook_urls
from rollout.errors import InfraError, Stopped, UsageError
from rollout.types import PolicyRef


def run(config: RunConfig, root: Path, *, amend: bool = False, console: Console | None = None) -> Journal:
    """Run, or resume, to the end. Raises UsageError before anything expensive and before a new folder is made."""
    refuse_ephemeral(root)
    inputs = check_inputs(config)
    made_here = not root.exists()
    say = (console or Console(stderr=True)).print
    lock = lock_run(root, timeout_s=config.cluster.lock_timeout_s, say=say)
    try:
        run_dir = open_run(root.resolve(), config, amend=amend)
        with closing(make_observer(run_dir, console)) as observer:
            lock.when_lost(observer.stop)
            journal = attempt(run_dir, inputs, observer)
            _show(journal, observer)
            return journal
    except UsageError:
        if made_here:
            _take_back(root, config)
        raise
    finally:
        lock.release()


def attempt(run_dir: RunDir, inputs: Inputs, observer: Observer) -> Journal:
    """All stages that are not done yet; how it ended stands in metrics.jsonl."""
    observer.record("attempt", state="running")
    for reason, num in sorted(inputs.unusable.items()):
        observer.warn(f"{num} rows of {run_dir.config.prompts.path} cannot be used: {reason}")
    if inputs.num_unusable_canaries:
        observer.warn(f"{inputs.num_unusable_canaries} canaries cannot be used: unreadable, or without a winner")
    if inputs.num_unusable_gold:
        observer.warn(f"{inputs.num_unusable_gold} rows of judge.gold.path cannot be used")
    try:
        journal = _run_stages(run_dir, inputs, observer)
    except BaseException as error:
        state = "stopped" if isinstance(error, Stopped | KeyboardInterrupt) else "failed"
        with suppress(OSError):  # the disk may be what failed
            observer.record("attempt", state=state, reason=f"{type(error).__name__}: {error}".partition("\n")[0])
        raise
    finally:
        stop_ray()
    observer.record("attempt", state="done")
    return journal


def _show(journal: Journal, observer: Observer) -> None:
    """What a run that is done has found, for the person who watches, and as a page."""
    scoreboard = scoreboard_table(journal.records(), rank_rounds(journal.records()))
    if scoreboard:
        observer.console.print()
        observer.console.print(scoreboard)
    rows = before_and_after(journal, num=3)
    if rows:
        observer.console.print(samples(rows))
    root = journal.run.root
    observer.say(f"\ndone: {root}")
    try:
        observer.say(f"report: {write_report(root)}")
    except Exception as error:  # what is done stays done, whatever is the matter with its page
        observer.warn(f"no report.html ({type(error).__name__}: {error}); `rondo report {root}` tries again")


def _run_stages(run_dir: RunDir, inputs: Inputs, observer: Observer) -> Journal:
    done = _finished(run_dir)
    if done is not None:
        for record in done.records():
            observer.round_done(record)
        return done
    base = existing_manifest(run_dir.root)
    if base is not None:
        refuse_deleted(Journal(run_dir, base_policy=base))
    with observer.showing(), observer.stage(None, "run"):
        with observer.stage(None, "start"):
            start_ray(run_dir.config.cluster, json_logs=run_dir.config.logging == "json")
            attach_sinks(run_dir, observer)
            _stop_on_signals(observer)  # after Ray, which installs handlers of its own
            prepare_queue(run_dir, inputs)
            with observer.stage(None, "place"):
                started = connect(run_dir, observer)
            started.label_server.start()
            if _needs_making(run_dir):
                _start_judges(started, observer)
            base = _base(run_dir, inputs, started.learner, observer)
            journal = Journal(run_dir, base_policy=base)
            current = _current_policy(journal)
            started.rollout.start(current)
            started.learner.start(base, current)
            _start_judges(started, observer)
        run_rounds(journal, started.cluster, inputs.prompts, inputs.held_out, observer)
        _record_memory(started, observer)
    return journal


def _record_memory(started: Started, observer: Observer) -> None:
    try:
        peaks = {**started.rollout.peak_memory(), **started.learner.peak_memory()}
    except InfraError as error:  # of a run that is done
        observer.warn(str(error))
        return
    for part, peak in peaks.items():
        observer.record("memory", part=part, **peak)


def make_observer(run_dir: RunDir, console: Console | None) -> Observer:
    """For a person by default; with `logging: json` nothing but objects, one a line. Webhooks hear of every end."""
    config, name = run_dir.config, run_dir.root.name
    observer = Observer(run_dir.root, console=console if config.logging == "text" else Console(quiet=True))
    if config.logging == "json":
        observer.attach(JsonLog(sys.stderr, run=name))
    if urls := webhook_urls(config.notify):
        observer.attach(Webhooks(config.notify, urls=urls, run_name=name, run_id=run_dir.run_id, warn=observer.warn))
    return observer


def attach_sinks(run_dir: RunDir, observer: Observer) -> None:
    """Metrics where somebody sees them, and the trackers that the configuration names; Ray has started."""
    config = run_dir.config
    if wants_metrics(config.cluster):
        observer.attach(RayMetrics(run_dir.root.name))
    settings = shared_settings(config)
    for sink in trackers_of(config.tracking, root=run_dir.root, run_id=run_dir.run_id, settings=settings):
        observer.attach(sink)


def shared_settings(config: RunConfig) -> dict[str, Any]:
    """What trackers are told of the configuration: all but addresses, which may hold passwords, for a tracker may be
    somebody else's machine."""
    return {name: value for name, (_, value) in flatten(config).items() if "://" not in str(value)}


def _needs_making(run_dir: RunDir) -> bool:
    """Whether the base policy is still to be trained, which takes minutes."""
    policy = run_dir.config.policy
    return existing_base(run_dir.root) is None and (policy.scratch is not None or policy.sft is not None)


def _start_judges(started: Started, observer: Observer) -> None:
    """A judge that cannot work is refused before anything expensive; one that has started answers at once."""
    with observer.stage(None, "start judges"):
        for judge in started.judges:
            judge.start()


def _finished(run_dir: RunDir) -> Journal | None:
    """The journal of a run that has nothing left to do, for which no engine need be started."""
    base = existing_base(run_dir.root)
    if base is None:
        return None
    journal = Journal(run_dir, base_policy=base)
    records = journal.records()
    done = len(records) >= run_dir.config.num_rounds and all(record.stage == "done" for record in records)
    return journal if done else None


def _base(run_dir: RunDir, inputs: Inputs, learner: RayLearner, observer: Observer) -> PolicyRef:
    """The run's base policy: the one it has, a link to the one it was given, or one that the learner makes now."""
    base = existing_base(run_dir.root)
    if base is not None:
        return base
    policy = run_dir.config.policy
    if policy.scratch is None and policy.sft is None:
        assert inputs.policy_folder is not None
        return link_base(run_dir.root, inputs.policy_folder)
    with observer.stage(None, "sft" if policy.sft else "scratch"):
        base = learner.make_base(run_dir.config, source=inputs.policy_folder, path=BASE_PATH, on_step=observer.step)
    check_learner(run_dir.config.learner, run_dir.root / base.path)
    check_encoder(run_dir.config, run_dir.root / base.path, inputs.prompts)
    return record_base(run_dir.root, base)


def _current_policy(journal: Journal) -> PolicyRef:
    """What the engines will be asked for first, so that they start with it."""
    policy = journal.base_policy
    for record in journal.records():
        if record.policy_next is None:
            return record.policy_sampled if record.shards is None else record.policy_in
        policy = record.policy_next
    return policy


def refuse_ephemeral(root: Path) -> None:
    """A Ray job's working directory is deleted with its cluster, and so would the run be. Raises UsageError."""
    if "runtime_resources" in root.resolve().parts:
        raise UsageError(
            f"run directory {root} lies in the Ray job's own working directory, which is deleted afterwards; "
            "give --run-dir with a path on a shared disk"
        )


def _stop_on_signals(observer: Observer) -> None:
    """SIGTERM (`ray job stop`) and SIGINT (Ctrl-C) stop the run at the next place where nothing is lost."""

    def handle(signum: int, frame: FrameType | None) -> None:
        observer.stop(f"stopped by {signal.Signals(signum).name}")

    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, handle)


def _take_back(root: Path, config: RunConfig) -> None:
    """Remove a run directory that holds nothing yet but what was refused; a base policy that was trained is kept."""
    made_base = config.policy.scratch is not None or config.policy.sft is not None
    if (root / "rounds").exists() or (made_base and existing_base(root) is not None):
        return
    shutil.rmtree(root, ignore_errors=True)
