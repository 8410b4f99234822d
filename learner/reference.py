"""Reference log-probabilities: computed once a round, kept beside the pairs, never part of them.

A sidecar is keyed by the sha256 of the reference and the content hashes of the pairs, in their order.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from learner.pairs import TokenPair, TrainingPair
from rollout.shards import SCHEMA_VERSION, hash_json, read_json, read_shard, write_json, write_shard
from rollout.types import Logps, TokenSequence

SCHEMA = pa.schema(
    [
        pa.field("reference_sha256", pa.string(), nullable=False),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("chosen_logps", pa.list_(pa.float32()), nullable=False),
        pa.field("rejected_logps", pa.list_(pa.float32()), nullable=False),
    ]
)
Score = Callable[[Sequence[TokenSequence]], list[Logps]]


@dataclass(frozen=True, kw_only=True)
class Sidecar:
    """The manifest of a sidecar, written last. pairs_sha256 covers the content hashes in their order."""

    reference_sha256: str
    pairs_sha256: str
    sha256: str
    num_pairs: int
    schema_version: int = SCHEMA_VERSION


def with_reference(
    pairs: Sequence[TokenPair], *, folder: Path, reference_sha256: str, score: Callable[[], Score]
) -> list[TrainingPair]:
    """Join pairs with the reference's log-probabilities, from the sidecar in `folder` where it is about these pairs.

    score: makes the function that computes them; called only where there is no such sidecar, so that a reference
    is loaded only when it is needed. Raises IntegrityError where a sidecar was altered.
    """
    file, manifest = folder / "00000.arrow", folder / "00000.json"
    pairs_sha256 = hash_json([pair.content_hash for pair in pairs])
    if manifest.exists():
        sidecar = read_json(manifest, Sidecar)
        if (sidecar.reference_sha256, sidecar.pairs_sha256) == (reference_sha256, pairs_sha256):
            return _join(pairs, read_shard(file, sidecar.sha256, SCHEMA))
        manifest.unlink()
    # All at once, not shard by shard: the values' last bits depend on what shares a pass with what.
    logps = score()([side for pair in pairs for side in (pair.chosen, pair.rejected)])
    columns: Mapping[str, object] = {
        "reference_sha256": [reference_sha256] * len(pairs),
        "content_hash": [pair.content_hash for pair in pairs],
        "chosen_logps": logps[0::2],
        "rejected_logps": logps[1::2],
    }
    table = pa.table(columns, schema=SCHEMA)
    sha256 = write_shard(file, table)
    sidecar = Sidecar(reference_sha256=reference_sha256, pairs_sha256=pairs_sha256, sha256=sha256, num_pairs=len(pairs))
    write_json(manifest, sidecar, Sidecar)
    return _join(pairs, table)


def _join(pairs: Sequence[TokenPair], table: pa.Table) -> list[TrainingPair]:
    sides = zip(pairs, table["chosen_logps"], table["rejected_logps"], strict=True)
    return [
        TrainingPair(
            pair=pair,
            ref_chosen_logps=chosen.values.to_numpy(zero_copy_only=False),
            ref_rejected_logps=rejected.values.to_numpy(zero_copy_only=False),
        )
        for pair, chosen, rejected in sides
    ]
