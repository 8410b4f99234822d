"""Durable files: temporary name, fsync, rename; checksums on read; Arrow shards with a manifest written last.

A shard is `NNNNN.arrow` (Arrow IPC, opens with `pyarrow` and `datasets.load_dataset("arrow", ...)` as it is)
and `NNNNN.json`, its manifest. A shard exists once its manifest does: what a crash leaves before that is replaced.
"""

import functools
import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from rollout.attempt import check_attempt
from rollout.errors import IntegrityError

SCHEMA_VERSION = 1
_TEMPORARY = ".tmp-"
T = TypeVar("T")


def publish(temporary: Path, final: Path) -> None:
    """Rename a finished file or folder into place, durably. Every commit of a run passes through here.

    Raises Stopped where another driver has taken the run over.
    """
    check_attempt(final)
    if final.is_dir():
        shutil.rmtree(final)
    os.replace(temporary, final)
    _sync_folder(final.parent)


def write_bytes(path: Path, data: bytes) -> str:
    """Write a file atomically and return the sha256 of its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    publish(temporary, path)
    return hashlib.sha256(data).hexdigest()


def write_json(path: Path, value: Any, kind: Any = None) -> str:
    """Write JSON with sorted keys, so that equal values are equal bytes. kind: the type, where it is a dataclass."""
    if kind is not None:
        value = _adapter(kind).dump_python(value, mode="json")
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=True, allow_nan=False)
    return write_bytes(path, text.encode() + b"\n")


def read_json(path: Path, kind: type[T]) -> T:
    """Read and validate a JSON file. Raises IntegrityError, naming the file, if it is not what was written."""
    try:
        value: T = _adapter(kind).validate_json(path.read_bytes())  # type: ignore[arg-type]
        return value
    except (ValidationError, FileNotFoundError) as error:
        raise IntegrityError(f"{path} does not hold a valid {kind.__name__}: {_first_line(error)}") from error


def write_shard(path: Path, table: pa.Table) -> str:
    """Write an Arrow IPC file atomically and return the sha256 of its bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return write_bytes(path, sink.getvalue().to_pybytes())


def read_shard(path: Path, sha256: str, schema: pa.Schema | None = None) -> pa.Table:
    """Read an Arrow IPC file that must have this sha256 and, if given, these columns. Raises IntegrityError."""
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise IntegrityError(f"{path} is missing; restore it, or fork the run from an earlier round") from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise IntegrityError(
            f"{path} was truncated or altered: {len(data)} bytes with sha256 {found[:12]}, "
            f"expected {sha256[:12]}; restore it, or fork the run from an earlier round"
        )
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    if schema is not None and not table.schema.equals(schema, check_metadata=False):
        raise IntegrityError(f"{path} has columns {table.schema.names}, expected {schema.names}")
    return table


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_policy(folder: Path) -> str:
    """sha256 of a policy: the names and bytes of its weight files and of config.json. Raises IntegrityError if none.

    In an adapter's place of config.json stand its own configuration and the sha256 of its base.
    """
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise IntegrityError(f"{folder} holds no *.safetensors; a policy is a Hugging Face folder with such weights")
    is_adapter = (folder / "adapter_config.json").exists()
    described = ["adapter_config.json", "base.json"] if is_adapter else ["config.json"]
    return hash_json({path.name: hash_file(path) for path in [*weights, *(folder / name for name in described)]})


def hash_json(value: Any) -> str:
    """sha256 of a value's canonical JSON; lone surrogates are escaped, so that any text can be hashed."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def sync_folders(root: Path) -> None:
    """Make the names in `root` and in all folders below it durable."""
    for folder in (root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())):
        _sync_folder(folder)


def temporary_beside(path: Path) -> Path:
    """A name beside `path` that no reader takes for a finished file."""
    return path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")


def is_temporary(path: Path) -> bool:
    """Whether this is what a writer has not finished."""
    return path.name.startswith(_TEMPORARY)


def discard(folder: Path) -> int:
    """Delete a published folder, all of it or nothing; the bytes that this freed. What a crash leaves is temporary.

    Raises Stopped as `publish` does.
    """
    check_attempt(folder)
    size_bytes = sum(path.lstat().st_size for path in folder.rglob("*"))
    temporary = temporary_beside(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    os.replace(folder, temporary)
    _sync_folder(folder.parent)
    shutil.rmtree(temporary, ignore_errors=True)
    return size_bytes


def remove_temporaries(root: Path) -> int:
    """Delete what crashed writers left under `root`; the number of files and folders deleted."""
    leftovers = [path for path in root.rglob(f"{_TEMPORARY}*") if not path.is_symlink()]
    for path in leftovers:
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    return len(leftovers)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Building an adapter takes ten times as long as using it."""
    return TypeAdapter(kind)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
