"""A round's labels as JSONL and Parquet: one row a label, or one row a pair with what became of it."""

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from judge.human.formats_rows import (
    CRITERION,
    ForeignLabel,
    LabelledPair,
    Unreadable,
    round_columns,
)
from judge.human.resolution import vote_share
from judge.human.types import LABELS, RoundView
from rollout.errors import UsageError
from rollout.shards import MESSAGES, publish, temporary_beside

What = Literal["labels", "pairs"]
_ROUND = [("run_id", pa.string()), ("run_name", pa.string()), ("round_id", pa.int32()), ("purpose", pa.string())]
_PAIR = [
    ("key", pa.string()),
    ("prompt_id", pa.string()),
    ("a", pa.int32()),
    ("b", pa.int32()),
    ("prompt", MESSAGES),
    ("text_a", pa.string()),
    ("text_b", pa.string()),
    ("origin", pa.string()),
    ("outcome", pa.string()),
    ("outcome_reason", pa.string()),
]
_LABEL = [
    ("gold", pa.string()),
    ("annotator", pa.string()),
    ("is_counted", pa.bool_()),
    ("label", pa.string()),
    ("strength", pa.string()),
    ("reason", pa.string()),
    ("comment", pa.string()),
    ("swapped", pa.bool_()),
    ("seconds", pa.float64()),
    ("submitted_at", pa.float64()),
    ("is_late", pa.bool_()),
]
_RESULT = [
    ("chosen", MESSAGES),
    ("rejected", MESSAGES),
    ("p_a", pa.float64()),
    ("num_labels", pa.int32()),
    ("num_skips", pa.int32()),
]
_BATCH = 256


def schema_of(view: RoundView, what: What) -> pa.Schema:
    """Columns of a file of labels or of pairs; each criterion of the round is a column of the labels."""
    criteria = [(CRITERION + name, pa.string()) for name, _ in view.rules.criteria]
    return pa.schema([*_ROUND, *_PAIR, *_LABEL, *criteria] if what == "labels" else [*_ROUND, *_PAIR, *_RESULT])


def table_rows(view: RoundView, pairs: Iterable[LabelledPair], what: What) -> Iterator[dict[str, Any]]:
    """One row a label (gold and late ones too, marked), or one row a pair (gold left out, as in a round's results)."""
    about = round_columns(view)
    for pair in pairs:
        if what == "labels":
            yield from (about | row for row in _label_rows(view, pair))
        elif pair.gold is None:
            yield about | _pair_row(view, pair)


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSON lines in ASCII, which keeps NUL and lone surrogates; the number of rows."""
    num_rows = 0
    temporary = temporary_beside(path)
    with open(temporary, "w", encoding="ascii") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=True, allow_nan=False) + "\n")
            num_rows += 1
    publish(temporary, path)
    return num_rows


def write_parquet(path: Path, rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> int:
    """Write rows as Parquet; the number of rows. A lone surrogate, which UTF-8 cannot hold, becomes a question mark."""
    num_rows = 0
    temporary = temporary_beside(path)
    with pq.ParquetWriter(temporary, schema) as writer:
        remaining = iter(rows)
        while batch := list(islice(remaining, _BATCH)):
            columns = {name: [row[name] for row in batch] for name in schema.names}
            writer.write_table(_table(columns, schema))
            num_rows += len(batch)
    publish(temporary, path)
    return num_rows


def read_jsonl(path: Path) -> Iterator[ForeignLabel | Unreadable]:
    """Labels of a JSONL file with at least the columns key and label. Raises UsageError where a line is no JSON."""
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise UsageError(
                        f"{path}, line {number} is no JSON: {error}; expected one object a line"
                    ) from error
                yield _foreign(row) if isinstance(row, dict) else Unreadable(reason="not_an_object")


def read_parquet(path: Path) -> Iterator[ForeignLabel | Unreadable]:
    """Labels of a Parquet file with at least the columns key and label. Raises UsageError if it is none."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UsageError(f"{path} is no Parquet file: {str(error).splitlines()[0]}") from error
    missing = {"key", "label"} - set(file.schema_arrow.names)
    if missing:
        raise UsageError(f"{path} has no column {', '.join(sorted(missing))}; expected the columns of an export")
    heavy = {"prompt", "text_a", "text_b"}
    names = [name for name in file.schema_arrow.names if name not in heavy]
    for batch in file.iter_batches(batch_size=_BATCH, columns=names):
        yield from (_foreign(row) for row in batch.to_pylist())


def _label_rows(view: RoundView, pair: LabelledPair) -> Iterator[dict[str, Any]]:
    about = _about(view, pair)
    for named in pair.labels:
        given = named.given
        yield about | {
            "gold": pair.gold,
            "annotator": named.annotator,
            "is_counted": named.is_counted,
            "label": given.label,
            "strength": given.strength,
            "reason": given.reason,
            "comment": given.comment,
            "swapped": given.swapped,
            "seconds": given.seconds,
            "submitted_at": given.at,
            "is_late": given.is_late,
            **{CRITERION + name: given.criteria.get(name) for name, _ in view.rules.criteria},
        }


def _pair_row(view: RoundView, pair: LabelledPair) -> dict[str, Any]:
    answers = {
        side: [{"role": "assistant", "content": text}] for side, text in (("a", pair.text_a), ("b", pair.text_b))
    }
    other = {"a": "b", "b": "a"}
    counted = [named.given.label for named in pair.labels if named.is_counted]
    votes = [label for label in counted if label != "skip"]
    return _about(view, pair) | {
        "chosen": answers.get(pair.outcome or ""),
        "rejected": answers.get(other.get(pair.outcome or "", "")),
        "p_a": None if pair.is_adjudicated else vote_share(votes),
        "num_labels": len(votes),
        "num_skips": len(counted) - len(votes),
    }


def _about(view: RoundView, pair: LabelledPair) -> dict[str, Any]:
    outcome, reason = pair.outcome, pair.reason
    if outcome is None and view.state == "sealed":
        outcome, reason = "abstain", reason or "deadline"
    return {
        "key": pair.key,
        "prompt_id": pair.prompt_id,
        "a": pair.a,
        "b": pair.b,
        "prompt": [dict(message) for message in pair.messages],
        "text_a": pair.text_a,
        "text_b": pair.text_b,
        "origin": pair.origin,
        "outcome": outcome,
        "outcome_reason": reason,
    }


def _foreign(row: Mapping[str, Any]) -> ForeignLabel | Unreadable:
    key, label = row.get("key"), row.get("label")
    if not isinstance(key, str) or not key:
        return Unreadable(reason="no_key")
    if label not in LABELS:
        return Unreadable(reason="no_label" if label is None else "unknown_label")
    criteria = {
        name.removeprefix(CRITERION): choice
        for name, choice in row.items()
        if name.startswith(CRITERION) and choice is not None
    }
    return ForeignLabel(
        key=key,
        annotator=row.get("annotator"),
        label=label,
        strength=row.get("strength"),
        reason=row.get("reason") or "",
        comment=row.get("comment") or "",
        criteria=criteria,
        swapped=bool(row.get("swapped")),
        seconds=row.get("seconds") or 0.0,
        at=row.get("submitted_at"),
    )


def _table(columns: dict[str, list[Any]], schema: pa.Schema) -> pa.Table:
    try:
        return pa.Table.from_pydict(columns, schema)
    except UnicodeEncodeError:
        return pa.Table.from_pydict({name: _marked(values) for name, values in columns.items()}, schema)


def _marked(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="replace").decode()
        case list():
            return [_marked(item) for item in value]
        case dict():
            return {name: _marked(item) for name, item in value.items()}
    return value
