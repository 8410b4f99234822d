"""What each part of the run did while a round went on, and what it did for other rounds meanwhile."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.telemetry.timeline import DRIVER, Span, busy, spans_of

WIDTH = 1000.0  # units of a lane
_KINDS = {"step": "learn", "load": "sync", "start": "start"}
_KNOWN = ("generate", "judge", "learn", "sync", "evaluate", "start")


@dataclass(frozen=True, kw_only=True)
class Block:
    """Uninterrupted work of one kind in the units of a lane; other_round: it was done for another one."""

    kind: str
    start: float
    length: float
    other_round: bool
    title: str


@dataclass(frozen=True, kw_only=True)
class Lane:
    """One part of the run; busy is the share of the round's time in which it had work of any round."""

    name: str
    blocks: tuple[Block, ...]
    busy: float | None


@dataclass(frozen=True, kw_only=True)
class RoundLanes:
    """A round from its first event to its last."""

    round_id: int
    seconds: float
    lanes: tuple[Lane, ...]


def round_lanes(lines: Sequence[dict[str, Any]]) -> list[RoundLanes]:
    """All rounds that metrics.jsonl has times of."""
    by_round: defaultdict[int, list[dict[str, Any]]] = defaultdict(list)
    for line in lines:
        if line.get("round") is not None:
            by_round[line["round"]].append(line)
    spans = {round_id: spans_of(own) for round_id, own in sorted(by_round.items())}
    return [_lanes(round_id, spans) for round_id, own in spans.items() if own]


def _lanes(round_id: int, spans: dict[int, list[Span]]) -> RoundLanes:
    own = spans[round_id]
    start, end = min(span.start for span in own), max(span.end for span in own)
    # Nothing is drawn that is shorter than what a screen shows, and gaps shorter than that are closed.
    scale = WIDTH / max(end - start, 1e-9)
    during: defaultdict[tuple[str, str, bool], list[Span]] = defaultdict(list)
    clipped = []
    for other, theirs in spans.items():
        for span in theirs:
            if span.end < start or span.start > end:
                continue
            inside = Span(span.track, span.name, max(span.start, start), min(span.end, end))
            clipped.append(inside)
            if span.track != DRIVER or other == round_id:
                during[span.track, kind_of(span.name), other != round_id].append(inside)
    shares = busy(clipped)["busy_share"]
    tracks = sorted({track for track, _, _ in during}, key=lambda track: (track != DRIVER, track))
    lanes = []
    for track in tracks:
        blocks = [
            block
            for (name, kind, other_round), parts in during.items()
            if name == track
            for block in _blocks(kind, parts, start, scale, other_round=other_round)
        ]
        # Longer ones first, so that what happened within a stage lies on top of it.
        ordered = tuple(sorted(blocks, key=lambda block: (not block.other_round, -block.length)))
        lanes.append(Lane(name="stages" if track == DRIVER else track, blocks=ordered, busy=shares.get(track)))
    return RoundLanes(round_id=round_id, seconds=end - start, lanes=tuple(lanes))


def kind_of(name: str) -> str:
    """The kind of work that a span's name tells: its first word, or what that is part of."""
    first = name.partition(" ")[0]
    kind = _KINDS.get(first, first)
    return kind if kind in _KNOWN else "other"


def _blocks(kind: str, spans: list[Span], zero: float, scale: float, *, other_round: bool) -> list[Block]:
    joined: list[list[float]] = []
    for span in sorted(spans, key=lambda span: span.start):
        start, end = (span.start - zero) * scale, (span.end - zero) * scale
        if joined and start - joined[-1][1] < 1:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    return [
        Block(
            kind=kind,
            start=round(start, 1),
            length=round(max(end - start, 1.5), 1),
            other_round=other_round,
            title=f"{kind}{' for another round' if other_round else ''}, {(end - start) / scale:.1f} s",
        )
        for start, end in joined
    ]
