"""All that a report says, as plain values for its template."""

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup

from judge.shards import read_pairs
from judge.types import PreferencePair
from orchestrator.journal import Journal
from orchestrator.observer import warnings_of
from orchestrator.report.curves import curves
from orchestrator.report.lanes import round_lanes
from orchestrator.scoreboard.standings import rank_rounds
from orchestrator.show import before_and_after
from orchestrator.status import STAGES, open_journal, read_metrics, status
from orchestrator.types import RoundRecord

_NUM_SAMPLES, _NUM_PAIRS = 6, 4
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]*://[^\s'\"]+")


def contents(root: Path) -> dict[str, Any]:
    """What templates/report.html takes. Raises UsageError if `root` is no run."""
    journal = open_journal(root)
    records, lines, found = journal.records(), read_metrics(journal.run.root), status(root)
    strengths = rank_rounds(records)
    measured = [record for record in records if record.scores and record.scores.standings]
    return {
        "name": journal.run.root.name,
        "made_on": datetime.fromtimestamp(time.time(), UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "file": journal.run.file,
        "found": found,
        "rounds": [_round(record, row) for record, row in zip(records, found["rounds"], strict=True)],
        "base_win_rate": next((r.scores.base_win_rate for r in records if r.scores and r.scores.base_win_rate), None),
        "has_gold": any(record.scores and record.scores.standing("gold", "base") for record in records),
        "last": measured[-1] if measured else None,
        "warnings": [(record.round_id, text) for record in records for text in warnings_of(record)],
        "endings": [line for line in lines if line["kind"] == "attempt" and line["state"] != "running"],
        "charts": [Markup(chart) for chart in curves(records, lines, strengths)],
        "strengths": {strength.round_id: strength for strength in strengths},
        "lanes": round_lanes(lines),
        "stages": STAGES,
        "samples": before_and_after(journal, num=_NUM_SAMPLES),
        "pairs": _some_pairs(journal, records),
        "configuration": without_addresses(yaml.safe_dump(_plain(journal), sort_keys=False, allow_unicode=True)),
        "amendments": [
            (amendment.from_round, [without_addresses(change) for change in amendment.changes])
            for amendment in journal.run.file.amendments
        ],
    }


def without_addresses(text: str) -> str:
    """The text without what looks like a URL: those may hold passwords, and reports are handed on."""
    return _ADDRESS.sub("(address left out)", text)


def _round(record: RoundRecord, row: dict[str, Any]) -> dict[str, Any]:
    """A row of `rondo status` with what the tables show beside it."""
    scores = record.scores
    standings = {
        f"{judge}_{baseline}": scores.standing(judge, baseline) if scores else None
        for judge in ("judge", "gold")
        for baseline in ("base", "previous")
    }
    return {**row, **standings, "answers": scores.answers if scores else None, "record": record}


def _some_pairs(journal: Journal, records: Sequence[RoundRecord]) -> list[PreferencePair]:
    """The first pairs of the newest round that has any."""
    for record in reversed(records):
        for shard in record.shards or ():
            if shard.num_pairs:
                found = [pair for pair in read_pairs(journal.run.root, shard) if pair.outcome == "chosen"]
                return found[:_NUM_PAIRS]
    return []


def _plain(journal: Journal) -> dict[str, Any]:
    return journal.run.config.model_dump(mode="json")
