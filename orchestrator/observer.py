"""What a person sees while a run goes on, and metrics.jsonl: one line a step and a stage."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from learner.types import StepMetrics
from orchestrator.tables import round_table
from orchestrator.telemetry.sink import Event, Sink
from orchestrator.types import RoundRecord
from rollout.errors import Stopped


class _Place(threading.local):
    """Where a thread stands: rounds may be sampled ahead while another one is learnt."""

    round_id: int | None = None
    stage: str = ""
    task: TaskID | None = None
    inside_s: float = 0.0  # spent in the stages within this one


class Observer:
    """Shows progress on standard error and appends to metrics.jsonl, which may hold clocks as records may not."""

    def __init__(self, root: Path, *, console: Console | None = None) -> None:
        self.console = console or _console()
        self._path = root / "metrics.jsonl"
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
        )
        self._at = _Place()
        self._header_printed = False
        self._stop_reason = ""
        self._sinks: list[Sink] = []
        self._telling = threading.Lock()
        self._rounds_worked: set[int] = set()
        self.saw_first_token = False

    def attach(self, sink: Sink) -> None:
        """Let somebody else hear what happens from now on: metrics, a tracker, a log."""
        self._sinks.append(sink)

    def close(self) -> None:
        """Tell all sinks that the run has ended."""
        while self._sinks:
            self._guarded(self._sinks.pop(), lambda sink: sink.close())

    def stop(self, reason: str) -> None:
        """Ask the run to stop where it next can; for signal handlers, which must not raise inside Ray's own code."""
        self._stop_reason = reason

    def check_stop(self) -> None:
        """Raise Stopped if the run was asked to stop."""
        if self._stop_reason:
            raise Stopped(f"{self._stop_reason}; the same command resumes")

    @contextmanager
    def showing(self) -> Iterator["Observer"]:
        """Draw progress bars for as long as the block lasts."""
        with self._progress:
            yield self

    @contextmanager
    def stage(self, round_id: int | None, name: str, *, total: int | None = None) -> Iterator[None]:
        """Time a stage, without the stages inside it; nothing is recorded for one that fails."""
        at = self._at
        outer = (at.round_id, at.stage, at.task)
        round_id = at.round_id if round_id is None else round_id
        outer_inside_s, at.inside_s = at.inside_s, 0.0
        at.round_id, at.stage = round_id, name
        if round_id is not None:
            self._rounds_worked.add(round_id)
        where = f"round {round_id}  {name}" if round_id is not None else name
        task = at.task = self._progress.add_task(where, total=total, note="")
        started, started_at = time.monotonic(), time.time()
        self.tell("stage_started")
        try:
            yield
            seconds = time.monotonic() - started - at.inside_s
            self.record("stage", seconds=seconds, outer=outer[1], started=started_at)
        finally:
            at.inside_s = outer_inside_s + time.monotonic() - started
            self._progress.remove_task(task)
            at.round_id, at.stage, at.task = outer

    def advance(self, num: int = 1, note: str = "") -> None:
        """Move the current stage's bar on."""
        if self._at.task is not None:
            self._progress.update(self._at.task, advance=num, note=note)
        self.tell("progress", num=num, note=note)

    def step(self, metrics: StepMetrics) -> None:
        """One optimizer step of the current stage."""
        self.record("step", step=metrics.step, num_steps=metrics.num_steps, **metrics.values)
        if self._at.task is not None:
            loss = metrics.values.get("loss")
            note = "" if loss is None else f"loss {loss:.4f}"
            self._progress.update(self._at.task, total=metrics.num_steps, completed=metrics.step, note=note)

    def record(self, kind: str, **values: Any) -> None:
        """Append one line to metrics.jsonl."""
        line = self._event(kind, values)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        self._hand_on(line)

    def tell(self, kind: str, **values: Any) -> None:
        """What sinks alone hear of, and no file keeps; costs nothing where there are none."""
        if self._sinks:
            self._hand_on(self._event(kind, values))

    def say(self, text: str) -> None:
        """One line for the person who watches."""
        self.console.print(text, highlight=False)
        self.tell("said", level="info", text=text)

    def warn(self, text: str) -> None:
        """One line that should not be missed."""
        self.console.print(f"[yellow]warning:[/] {text}", highlight=False)
        self.tell("said", level="warning", text=text)

    def round_done(self, record: RoundRecord) -> None:
        """Print the round's row, under a header the first time, and warn of what the figures mean."""
        self.console.print(round_table([record], header=not self._header_printed))
        self._header_printed = True
        self.tell("round_done", record=record, resumed=record.round_id not in self._rounds_worked)
        for warning in warnings_of(record):
            self.warn(warning)

    def first_token(self) -> None:
        """Note, once, how long this process took to its first generated token."""
        if not self.saw_first_token:
            self.saw_first_token = True
            self.record("first_token", seconds=time.time() - process_started())

    def _event(self, kind: str, values: dict[str, Any]) -> dict[str, Any]:
        return {"kind": kind, "round": self._at.round_id, "stage": self._at.stage, **values, "time": time.time()}

    def _hand_on(self, event: Event) -> None:
        with self._telling:  # sinks hear of rounds that overlap from two threads, one event at a time
            for sink in list(self._sinks):
                if not self._guarded(sink, lambda sink: sink.take(event)):
                    self._sinks.remove(sink)

    def _guarded(self, sink: Sink, call: Callable[[Sink], None]) -> bool:
        """Whether the call went well. Who only watches must not end a run: a sink that fails is left out after that."""
        try:
            call(sink)
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            self.console.print(
                f"[yellow]warning:[/] {type(sink).__name__} failed ({reason}); the run goes on without it",
                highlight=False,
            )
            return False
        return True


def _console() -> Console:
    """Standard error, as wide as a table wants where it is no terminal."""
    return Console(stderr=True) if sys.stderr.isatty() else Console(stderr=True, width=120)


def process_started() -> float:
    """When this process was started, in seconds since the epoch."""
    return psutil.Process().create_time()


def warnings_of(record: RoundRecord) -> list[str]:
    """What a practitioner should be told about a finished round."""
    found = []
    if record.num_pairs == 0 and not (record.update and record.update.num_steps):  # KTO learns without pairs
        reasons = ", ".join(f"{reason} {num}" for reason, num in sorted(record.num_rejected.items())) or "none"
        found.append(
            f"round {record.round_id} has not a single pair (rejected: {reasons}); the policy stays "
            f"v{record.policy_in.version}. Raise rollout.temperature or num_completions, or lower min_margin"
        )
    share = record.update.metrics.get("published_share") if record.update and record.update.num_steps else None
    if share is not None and share < 0.5:
        found.append(
            f"round {record.round_id}: only {share:.0%} of the update survived publication, so rollout lags the "
            "learner; raise learner.learning_rate, set learner.publish_rounding: stochastic, or publish in float32"
        )
    if record.update is not None:
        found += [f"round {record.round_id}: {warning}" for warning in record.update.warnings]
    if record.scores is not None:
        found += [f"round {record.round_id}: {alarm}" for alarm in record.scores.alarms]
    if record.gate_reasons:
        done = f"rolled back to v{record.policy_in.version}" if record.rolled_back else "promoted all the same"
        found.append(f"round {record.round_id}: {'; '.join(record.gate_reasons)}; {done} (evaluation.gate)")
    return found
