"""Rows out of whatever holds them: JSONL, Parquet and Arrow files, Hugging Face datasets, a Python function."""

import gzip
import importlib
import json
import os
import re
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rollout.errors import UsageError

FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".arrow")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_BATCH_ROWS = 1024
_INVALID = "\ud800"  # stands for a row that cannot be decoded: text that whoever reads it must refuse


def read_rows(path: str, *, split: str) -> Iterator[tuple[str, Any]]:
    """Rows with the place that each came from, in order; text that is not valid Unicode has lone surrogates.

    Places name files without their folders, so that a moved file leaves them as they were. Raises UsageError.
    """
    place = Path(path)
    if place.is_dir():
        return _number(place.absolute().name, 0, _rows_of_dataset(path, split))
    if place.is_file():
        return _rows_of_file(place)
    if _FUNCTION.fullmatch(path):
        return _number(path, 0, _rows_of_function(path))
    if place.name.endswith(FILE_SUFFIXES) or not _HUB_NAME.fullmatch(path):
        raise UsageError(f"{path} does not exist; expected a file, a folder, a Hugging Face dataset or module:function")
    return _number(path, 0, _rows_of_dataset(path, split))


def _number(name: str, first: int, rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"{name}:{number}", row) for number, row in enumerate(rows, first))


def _rows_of_file(path: Path) -> Iterator[tuple[str, Any]]:
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _rows_of_jsonl(path)
    if path.suffix not in FILE_SUFFIXES:
        raise UsageError(f"{path} ends in {path.suffix!r}; expected one of {', '.join(FILE_SUFFIXES)}")
    return _number(path.name, 0, _rows_of_columnar(path))


def _rows_of_jsonl(path: Path) -> Iterator[tuple[str, Any]]:
    with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
        for number, line in enumerate(_lines(file, path), 1):
            # Bytes that are no UTF-8 become lone surrogates, which are counted like those that JSON spells out.
            text = line.removeprefix(b"\xef\xbb\xbf").decode("utf-8", errors="surrogateescape").strip()
            if not text:
                continue
            try:
                row = json.loads(text)
            except (ValueError, RecursionError) as error:
                shown = text[:60].encode("utf-8", "replace").decode()
                raise UsageError(
                    f"{path} line {number} is not JSON ({error}): got {shown!r}, expected one object a line, "
                    'such as {"prompt": "..."}; mend or remove the line'
                ) from error
            if not isinstance(row, dict):
                raise UsageError(
                    f"{path} line {number} holds a JSON {type(row).__name__}, expected an object "
                    'such as {"prompt": "..."}; mend or remove the line'
                )
            yield f"{path.name}:{number}", row


def _lines(file: Iterable[bytes], path: Path) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UsageError(f"{path} is not a readable .gz file: {error}; write or copy it again") from error


def _rows_of_columnar(path: Path) -> Iterator[Any]:
    try:
        if path.suffix == ".parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(_BATCH_ROWS):
                    yield from _rows_of_batch(batch)
        else:
            for batch in _arrow_table(path).to_batches():
                yield from _rows_of_batch(batch)
    except pa.ArrowInvalid as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path} is not a readable {path.suffix} file: {reason}; write it again") from error


def _arrow_table(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as source:
        try:
            return pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:  # `datasets` writes the stream format under the same suffix
            source.seek(0)
            return pa.ipc.open_stream(source).read_all()


def _rows_of_batch(batch: pa.RecordBatch | pa.Table) -> Iterator[Any]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield _INVALID


def _rows_of_dataset(name: str, split: str) -> Iterator[Any]:
    import datasets

    try:
        if any((Path(name) / file).is_file() for file in ("state.json", "dataset_dict.json")):
            loaded = datasets.load_from_disk(name)
            dataset = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
        else:
            dataset = datasets.load_dataset(name, split=split)
    except (OSError, ValueError, KeyError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"cannot load split {split!r} of {name}: {reason}; expected a file, a folder of data files, "
            "a folder made by save_to_disk, or the name of a Hugging Face dataset (prompts.path, prompts.split)"
        ) from error
    for table in dataset.with_format("arrow").iter(batch_size=_BATCH_ROWS):
        yield from _rows_of_batch(table)


def _rows_of_function(target: str) -> Iterator[Any]:
    module_name, _, name = target.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        function = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"cannot import {target} from {os.getcwd()} or the environment: {error}; "
            "expected module:function of a function that returns rows"
        ) from error
    if not callable(function):
        raise UsageError(f"{target} is a {type(function).__name__}, expected a function that returns rows")
    try:
        yield from function()
    except Exception as error:
        raise UsageError(f"{target} raised {type(error).__name__}: {error}; expected an iterable of rows") from error
