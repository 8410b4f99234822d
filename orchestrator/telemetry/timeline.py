"""A round's timeline in the Chrome trace format, made from the times in metrics.jsonl.

Opens in Perfetto (ui.perfetto.dev) or chrome://tracing. Format: "Trace Event Format" (Chromium), JSON object form;
times in microseconds from the round's first event.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.status import open_journal, read_metrics
from rollout.errors import UsageError

Line = dict[str, Any]
_PID = 1
DRIVER, _LEARNER = "driver", "learner"


class Span:
    """What a part of the run (its track) worked on from start to end, in seconds since the epoch."""

    def __init__(self, track: str, name: str, start: float, end: float, **args: Any) -> None:
        self.track, self.name, self.start, self.end, self.args = track, name, start, max(start, end), args


def write_timeline(root: Path, round_id: int, out: Path) -> dict[str, Any]:
    """Write the file; what `rondo timeline` tells about it. Raises UsageError for a round that never began."""
    run = open_journal(root).run
    trace = chrome_trace(read_metrics(run.root), round_id)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(trace), encoding="utf-8")
    return {"file": str(out), "num_events": len(trace["traceEvents"]), **trace["otherData"]}


def timeline_page(found: dict[str, Any]) -> str:
    """What was written, for a person."""
    rows = [f"  {part}: busy {share:.0%}, idle {1 - share:.0%}" for part, share in found["busy_share"].items()]
    return "\n".join([f"wrote {found['file']}: {found['seconds']:.1f} s, {found['num_events']} events", *rows])


def chrome_trace(lines: Sequence[Line], round_id: int) -> dict[str, Any]:
    """The trace of one round, all attempts at it included; otherData says how busy each part was.

    Raises UsageError where the file has nothing of this round.
    """
    here = [line for line in lines if line.get("round") == round_id]
    spans = spans_of(here)
    if not spans:
        known = sorted({line["round"] for line in lines if line.get("round") is not None})
        raise UsageError(f"metrics.jsonl has no times of round {round_id}; it knows rounds {known or 'none'}")
    zero = min(span.start for span in spans)
    tracks = sorted({span.track for span in spans}, key=lambda track: (track != DRIVER, track))
    thread = {track: number for number, track in enumerate(tracks)}
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": _PID, "tid": 0, "args": {"name": f"round {round_id}"}}
    ]
    for track, number in thread.items():
        events.append({"ph": "M", "name": "thread_name", "pid": _PID, "tid": number, "args": {"name": track}})
    for number, span in enumerate(sorted(spans, key=lambda span: (span.start, -span.end))):
        events += _events(span, thread[span.track], zero, number)
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": busy(spans)}


def busy(spans: Sequence[Span]) -> dict[str, Any]:
    """Seconds of the round, and the share of them in which each part had work; overlap counts once within a part."""
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    whole = max(end - start, 1e-9)
    shares = {}
    for track in sorted({span.track for span in spans} - {DRIVER}):
        covered, until = 0.0, start
        for span in sorted((span for span in spans if span.track == track), key=lambda span: span.start):
            covered += max(0.0, span.end - max(span.start, until))
            until = max(until, span.end)
        shares[track] = round(covered / whole, 4)
    return {"seconds": round(whole, 6), "busy_share": shares}


def spans_of(lines: Sequence[Line]) -> list[Span]:
    """Everything that these lines of metrics.jsonl tell the times of."""
    spans, step_began = [], None
    for line in lines:
        kind, now = line["kind"], line["time"]
        if kind == "stage":
            began = line.get("started", now - line["seconds"])
            spans.append(Span(DRIVER, line["stage"], began, now, own_seconds=line["seconds"]))
            if line["stage"] == "learn":
                spans.append(Span(_LEARNER, "learn", began, now))
            step_began = None
        elif kind == "generated" and "seconds" in line:
            name = f"{line['stage']} shard {line['chunk_id']}"
            args = {"num_tokens": line["num_tokens"], "num_groups": line["num_groups"]}
            spans.append(Span(f"engine {line['engine']}", name, now - line["seconds"], now, **args))
        elif kind == "sync":
            track = f"engine {line['engine']}"
            spans.append(Span(track, f"load v{line['version']}", now - line["load_s"], now, size=line["size_bytes"]))
        elif kind == "shard_judged":
            args = {"num_pairs": line["num_pairs"]}
            name = f"judge shard {line['chunk_id']}"
            spans.append(Span(line["judge"], name, line["submitted"], line["finished"], **args))
        elif kind == "step":
            if step_began is not None:
                spans.append(Span(_LEARNER, f"step {line['step']}", step_began, now, loss=line.get("loss")))
            step_began = now
    return spans


def _events(span: Span, thread: int, zero: float, number: int) -> list[dict[str, Any]]:
    """Driver and learner nest, so theirs are complete events; shards overlap on an engine or a judge, and are async."""
    start, end = round((span.start - zero) * 1e6), round((span.end - zero) * 1e6)
    common = {"name": span.name, "cat": span.track, "pid": _PID, "tid": thread, "args": span.args}
    if span.track in (DRIVER, _LEARNER):
        return [{"ph": "X", "ts": start, "dur": end - start, **common}]
    return [
        {"ph": "b", "id": number, "ts": start, **common},
        {"ph": "e", "id": number, "ts": end, **common, "args": {}},
    ]
