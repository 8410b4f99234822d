"""Three pictures of a training step: the longest answers in so much memory, tokens/s against the length, and seconds
against the vocabulary."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.bench import Row
from orchestrator.bench_learner import ask, request
from orchestrator.line_chart import Line, line_chart

BUDGET_GIB = 4.0
_BUDGETS_GIB = (1.0, 2.0, 4.0, 8.0)
_LENGTHS = (128, 256, 512, 1024)
_MEMORY_LENGTHS = (256, 1024)
_VOCABULARIES = (8192, 16384, 32768, 65536, 131072)
_ONE_PAIR = {"pairs_per_step": 1, "num_steps": 3}
# Above weights, gradients and moments: off and blocks are learner.activation_checkpointing.
_KINDS: Mapping[str, dict[str, str]] = {
    "every activation kept": {},
    "blocks checkpointed": {"activation_checkpointing": "blocks"},
}


def with_plots(found: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Measure, write longest-answers.svg, length-speed.svg and vocabulary-cost.svg, and add the figures as rows."""
    speed = _median_steps([_answers(length) for length in _LENGTHS])
    cost = _median_steps([_answers(128, vocab_size=size) for size in _VOCABULARIES])
    peaks = {kind: [_peak_gib(length, settings) for length in _MEMORY_LENGTHS] for kind, settings in _KINDS.items()}
    folder.mkdir(parents=True, exist_ok=True)
    charts = pictures(
        speed=[tokens / seconds for seconds, tokens in speed], cost=[seconds for seconds, _ in cost], peaks=peaks
    )
    for name, chart in charts.items():
        (folder / name).write_text(chart)
    rows = [
        Row(name=f"answers of {length} tokens, 1 pair", value=tokens / seconds, unit="tokens/s", better="higher")
        for length, (seconds, tokens) in zip(_LENGTHS, speed, strict=True)
    ]
    rows += [
        Row(name=f"vocabulary {size:,}, answers of 128 tokens, 1 pair", value=seconds, unit="s/step", better="lower")
        for size, (seconds, _) in zip(_VOCABULARIES, cost, strict=True)
    ]
    rows += [
        Row(name=f"peak memory, answers of {length} tokens, 1 pair, {kind}", value=gib, unit="GiB", better="lower")
        for kind, measured in peaks.items()
        for length, gib in zip(_MEMORY_LENGTHS, measured, strict=True)
    ]
    rows += [
        Row(
            name=f"longest answers, 1 pair, in {BUDGET_GIB:g} GiB above weights, gradients and moments, {kind} "
            f"(line through {' and '.join(map(str, _MEMORY_LENGTHS))} tokens)",
            value=float(longest(gib)),
            unit="tokens",
            better="higher",
        )
        for kind, gib in peaks.items()
    ]
    return {**found, "rows": [*found["rows"], *map(asdict, rows)]}


def longest(peaks_gib: Sequence[float], *, budget_gib: float = BUDGET_GIB) -> int:
    """Tokens of an answer at which the line through the measured peaks meets the budget."""
    slope, start = np.polyfit(_MEMORY_LENGTHS, peaks_gib, 1)
    return int((budget_gib - start) / slope)


def pictures(*, speed: Sequence[float], cost: Sequence[float], peaks: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """SVG by file name. speed: tokens/s of each length; cost: s a step of each vocabulary; peaks: GiB of each kind."""
    fits = [
        Line(label=kind, x=_BUDGETS_GIB, y=[longest(gib, budget_gib=budget) for budget in _BUDGETS_GIB])
        for kind, gib in peaks.items()
    ]
    return {
        "longest-answers.svg": line_chart(
            "Longest answers that fit, 1 pair a pass",
            fits,
            x="GiB above weights, gradients and moments",
            y="tokens of an answer",
        ),
        "length-speed.svg": line_chart(
            "Tokens a second against the length",
            [Line(label="", x=_LENGTHS, y=speed)],
            x="tokens of an answer",
            y="tokens/s",
        ),
        "vocabulary-cost.svg": line_chart(
            "Seconds a step against the vocabulary", [Line(label="", x=_VOCABULARIES, y=cost)], x="words", y="s a step"
        ),
    }


def _answers(length: int, **changed: int) -> dict[str, int]:
    return {**_ONE_PAIR, "min_answer_tokens": length, "max_answer_tokens": length, **changed}


def _median_steps(shapes: Sequence[dict[str, int]]) -> list[tuple[float, float]]:
    """(seconds, tokens) of a step of each shape, without the first, which warms up."""
    found = ask([request(side="steps", shape=shape) for shape in shapes])
    return [(float(np.median(one["seconds"][1:])), float(np.median(one["num_tokens"][1:]))) for one in found]


def _peak_gib(length: int, settings: Mapping[str, str]) -> float:
    shape = {**_answers(length), "num_steps": 2}
    size_bytes: int = ask([request(side="ours", shape=shape, **settings)], trims=True)[0]["peak_bytes"]
    return size_bytes / 2**30
