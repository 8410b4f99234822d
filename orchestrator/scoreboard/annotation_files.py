"""Files of pairwise annotations: parquet, json, jsonl or csv, in AlpacaEval's columns."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from rollout.errors import UsageError

_COLUMNS = ("instruction", "output_1", "output_2", "preference")
_DIFFICULTY = "instruction_difficulty"
_SUFFIXES = (".parquet", ".json", ".jsonl", ".csv")


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """Usable rows of a file: preferences float[N] in [0, 1] for output_2, lengths in characters; the rest is counted.

    num_dropped by reason: `null` and `out_of_range` preferences (0 is AlpacaEval's older sign for a draw), and
    `output_missing`, which only keeps a row from the length-controlled figure (has_lengths bool[N]).
    """

    instructions: tuple[str, ...]
    preferences: npt.NDArray[np.float64]
    len_1: npt.NDArray[np.float64]
    len_2: npt.NDArray[np.float64]
    has_lengths: npt.NDArray[np.bool_]
    difficulties: npt.NDArray[np.float64] | None = None
    num_dropped: Mapping[str, int] = field(default_factory=dict)


def read_annotations(path: Path) -> Annotations:
    """Read parquet, json (a list of objects), jsonl or csv by the AlpacaEval rules. Raises UsageError in one line."""
    rows = _read(path)
    if not rows:
        raise UsageError(f"{path} has no rows, expected columns {', '.join(_COLUMNS)}")
    for column in _COLUMNS:
        if not any(column in row for row in rows):
            known = ", ".join(sorted({str(name) for row in rows for name in row}))
            raise UsageError(f"{path} has no column {column!r}, only {known}; expected {', '.join(_COLUMNS)}")
    usable, preferences, dropped = [], [], Counter[str]()
    for line, row in enumerate(rows, start=1):
        preference = _number(path, line, "preference", row.get("preference"))
        if preference is None:
            dropped["null"] += 1
        elif not (1 <= preference <= 2 or preference == 0):
            dropped["out_of_range"] += 1
        else:
            usable.append((line, row))
            preferences.append(preference - 1 if preference else 0.5)
    if not usable:
        reasons = ", ".join(f"{num} {reason}" for reason, num in sorted(dropped.items()))
        raise UsageError(f"{path} has no preference in [1, 2] (1: output_1 wins, 2: output_2 wins): {reasons}")
    return _annotations(path, usable, preferences, dropped)


def _annotations(
    path: Path, usable: list[tuple[int, dict[str, Any]]], preferences: list[float], dropped: Counter[str]
) -> Annotations:
    lengths = [(_length(path, line, row, "output_1"), _length(path, line, row, "output_2")) for line, row in usable]
    difficulties = [_number(path, line, _DIFFICULTY, row.get(_DIFFICULTY)) for line, row in usable]
    has_lengths = np.array([None not in pair for pair in lengths])
    if not has_lengths.all():
        dropped["output_missing"] = int((~has_lengths).sum())
    known = [difficulty for difficulty in difficulties if difficulty is not None]
    return Annotations(
        # Without its instruction, a row is a prompt of its own.
        instructions=tuple(str(row.get("instruction") or f"\0{line}") for line, row in usable),
        preferences=np.array(preferences),
        len_1=np.array([first or 0 for first, _ in lengths], dtype=np.float64),
        len_2=np.array([second or 0 for _, second in lengths], dtype=np.float64),
        has_lengths=has_lengths,
        difficulties=np.array(known) if len(known) == len(usable) else None,
        num_dropped=dict(sorted(dropped.items())),
    )


def _number(path: Path, line: int, column: str, value: Any) -> float | None:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{path} row {line}: {column} is {value!r:.80}, expected a number or null")
    return float(value) if abs(value) < 1e300 else inf


def _length(path: Path, line: int, row: Mapping[str, Any], column: str) -> int | None:
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise UsageError(f"{path} row {line}: {column} is {value!r:.80}, expected text or null")
    return None if value is None else len(value)


def _read(path: Path) -> list[dict[str, Any]]:
    if path.suffix not in _SUFFIXES:
        raise UsageError(f"{path} ends in {path.suffix!r}, expected one of {', '.join(_SUFFIXES)}")
    if not path.is_file():
        raise UsageError(f"{path} does not exist" if not path.exists() else f"{path} is a folder, expected a file")
    try:
        return _READERS[path.suffix](path)
    except (pa.ArrowException, ValueError, RecursionError, OSError) as error:
        raise UsageError(
            f"{path} is not readable as {path.suffix[1:]}: {' '.join(str(error).split())[:200]}"
        ) from error


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    return _rows_of(pq.ParquetFile(path).read())


def _read_csv(path: Path) -> list[dict[str, Any]]:
    if not path.stat().st_size:
        return []
    numbers = ("preference", _DIFFICULTY)
    types = {name: pa.float64() if name in numbers else pa.string() for name in (*_COLUMNS, _DIFFICULTY)}
    table = pa_csv.read_csv(
        path,
        # One block: a row may be longer than any fixed size.
        read_options=pa_csv.ReadOptions(block_size=path.stat().st_size + 1, use_threads=False),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(column_types=types),
    )
    return _rows_of(table)


def _rows_of(table: Any) -> list[dict[str, Any]]:
    wanted = [name for name in table.column_names if name in (*_COLUMNS, _DIFFICULTY)]
    if set(_COLUMNS) - set(wanted):
        wanted = table.column_names  # so that the refusal can name what is there
    rows: list[dict[str, Any]] = table.select(wanted).to_pylist()
    return rows


def _read_json(path: Path) -> list[dict[str, Any]]:
    return _objects(json.loads(path.read_text(encoding="utf-8-sig")))


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    return _objects([json.loads(line) for line in lines if line.strip()])


def _objects(value: Any) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ValueError("expected a list of objects, one a comparison")
    return value


_READERS = {".parquet": _read_parquet, ".csv": _read_csv, ".json": _read_json, ".jsonl": _read_jsonl}
