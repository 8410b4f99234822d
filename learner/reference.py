"""Reference log-probabilities: computed once a round, kept beside the pairs, never part of them.

A sidecar is keyed by the sha256 of the reference and the content hashes of the pairs, in their order; within it each
answer by the hash of its token ids, so that other rounds find it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from learner.pairs import TokenPair, TrainingPair
from learner.ranks import Ranks
from learner.reference_cache import ReferenceCache, Score, token_key
from learner.sidecar import SCHEMA, SIDECAR_VERSION, Sidecar, read_sidecar, sidecar_files, write_sidecar
from rollout.shards import hash_json, read_json


def with_reference(
    pairs: Sequence[TokenPair],
    *,
    folder: Path,
    reference_sha256: str,
    score: Callable[[], Score],
    cache: ReferenceCache | None = None,
    ranks: Ranks | None = None,
) -> list[TrainingPair]:
    """Join pairs with the reference's log-probabilities, from the sidecar in `folder` where it is about these pairs.

    score: makes the function that computes them; called only where an answer is in no sidecar, so that a reference
    is loaded only when it is needed. cache: the other sidecars, and the count of what they saved. ranks compute
    together, and the first one reads and writes. Raises IntegrityError where a sidecar was altered.
    """
    cache, ranks = cache or ReferenceCache(), ranks or Ranks()
    pairs_sha256 = hash_json([pair.content_hash for pair in pairs])
    known = ranks.from_first(lambda: _known(folder, reference_sha256=reference_sha256, pairs_sha256=pairs_sha256))
    if known is not None:
        table, num_reused = known
        cache.num_reused += num_reused
        return _join(pairs, table)
    rows = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
    keys = [token_key(row) for row in rows]
    logps, num_reused = cache.complete(rows, keys=keys, reference_sha256=reference_sha256, score=score, ranks=ranks)
    cache.num_reused += num_reused
    columns: Mapping[str, object] = {
        "reference_sha256": [reference_sha256] * len(pairs),
        "content_hash": [pair.content_hash for pair in pairs],
        "chosen_key": keys[0::2],
        "rejected_key": keys[1::2],
        "chosen_logps": logps[0::2],
        "rejected_logps": logps[1::2],
    }
    table = pa.table(columns, schema=SCHEMA)
    about = {"reference_sha256": reference_sha256, "pairs_sha256": pairs_sha256}
    ranks.from_first(lambda: write_sidecar(folder, table, **about, num_reused=num_reused))
    return _join(pairs, table)


def _known(folder: Path, *, reference_sha256: str, pairs_sha256: str) -> tuple[pa.Table, int] | None:
    """The sidecar about these pairs under this reference, and what it had reused; one about others is taken away."""
    _, manifest = sidecar_files(folder)
    if not manifest.exists():
        return None
    sidecar = read_json(manifest, Sidecar)
    found = (sidecar.schema_version, sidecar.reference_sha256, sidecar.pairs_sha256)
    if found == (SIDECAR_VERSION, reference_sha256, pairs_sha256):
        return read_sidecar(folder, sidecar), sidecar.num_reused
    manifest.unlink()
    return None


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
