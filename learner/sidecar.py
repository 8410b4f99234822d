"""The file of reference log-probabilities beside a round's pairs, and its manifest."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from rollout.shards import read_shard, write_json, write_shard

SIDES = ("chosen", "rejected")
# 2: the answers' keys stand beside their values.
SIDECAR_VERSION = 2
SCHEMA = pa.schema(
    [
        pa.field("reference_sha256", pa.string(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("chosen_key", pa.string(), nullable=False),
        pa.field("rejected_key", pa.string(), nullable=False),
        pa.field("chosen_logps", pa.list_(pa.float32()), nullable=False),
        pa.field("rejected_logps", pa.list_(pa.float32()), nullable=False),
    ]
)


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The manifest of a sidecar, written last. pairs_sha256 covers the content hashes in their order; num_reused: of
    its answers, those that were known before."""

    reference_sha256: str
    pairs_sha256: str
    sha256: str
    num_pairs: int
    num_reused: int = 0
    schema_version: int = 1


def sidecar_files(folder: Path) -> tuple[Path, Path]:
    """(values, manifest)"""
    return folder / "00000.arrow", folder / "00000.json"


def read_sidecar(folder: Path, sidecar: Sidecar) -> pa.Table:
    """Its values. Raises IntegrityError, naming the file, where they were altered."""
    return read_shard(sidecar_files(folder)[0], sidecar.sha256, SCHEMA)


def write_sidecar(folder: Path, table: pa.Table, *, reference_sha256: str, pairs_sha256: str, num_reused: int) -> None:
    file, manifest = sidecar_files(folder)
    sidecar = Sidecar(
        reference_sha256=reference_sha256,
        pairs_sha256=pairs_sha256,
        sha256=write_shard(file, table),
        num_pairs=table.num_rows,
        num_reused=num_reused,
        schema_version=SIDECAR_VERSION,
    )
    write_json(manifest, sidecar, Sidecar)
