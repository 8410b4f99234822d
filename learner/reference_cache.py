"""Reference log-probabilities of answers that an earlier sidecar holds already: one answer is scored once."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from learner.ranks import Ranks
from learner.sidecar import SIDECAR_VERSION, SIDES, Sidecar, read_sidecar, sidecar_files
from rollout.shards import read_json
from rollout.types import Logps, TokenSequence

Score = Callable[[Sequence[TokenSequence]], list[Logps]]


class ReferenceCache:
    """Answers by (sha256 of the reference, hash of their token ids), in the sidecars of other rounds.

    num_reused: answers of this round that were not scored again, its own repetitions among them.
    """

    def __init__(self, folders: Sequence[Path] = ()) -> None:
        self.folders = folders
        self.num_reused = 0

    def complete(
        self,
        rows: Sequence[TokenSequence],
        *,
        keys: Sequence[str],
        reference_sha256: str,
        score: Callable[[], Score],
        ranks: Ranks,
    ) -> tuple[list[Logps], int]:
        """The log-probabilities of all rows, scoring what is not known, and the number that was not scored.

        keys: what `token_key` says of each row. score: makes the function that computes; not called where all is known.
        ranks: score together what the first one has not found. Raises IntegrityError where a sidecar that is needed was
        altered.
        """
        known = ranks.from_first(lambda: self._known(set(keys), reference_sha256))
        new = {key: row for key, row in zip(keys, rows, strict=True) if key not in known}
        # All at once: the values' last bits depend on what shares a pass with what.
        scored = score()(list(new.values())) if new else []
        found = {**known, **dict(zip(new, scored, strict=True))}
        return [found[key] for key in keys], len(rows) - len(new)

    def _known(self, wanted: set[str], reference_sha256: str) -> dict[str, Logps]:
        known: dict[str, Logps] = {}
        for folder in self.folders:
            missing = wanted - known.keys()
            sidecar = _sidecar_of(folder, reference_sha256)
            if missing and sidecar is not None and not missing.isdisjoint(_keys_of(folder)):
                known |= _values(read_sidecar(folder, sidecar), missing)
        return known


def token_key(row: TokenSequence) -> str:
    """The hash of a prompt's and its answer's token ids, and of where the one ends."""
    found = hashlib.sha256(len(row.prompt_ids).to_bytes(8, "little"))
    for ids in (row.prompt_ids, row.completion_ids):
        found.update(np.ascontiguousarray(ids, dtype="<i4").tobytes())
    return found.hexdigest()


def _sidecar_of(folder: Path, reference_sha256: str) -> Sidecar | None:
    _, manifest = sidecar_files(folder)
    if not manifest.exists():
        return None
    sidecar = read_json(manifest, Sidecar)
    fits = (sidecar.schema_version, sidecar.reference_sha256) == (SIDECAR_VERSION, reference_sha256)
    return sidecar if fits else None


def _keys_of(folder: Path) -> set[str]:
    """The keys alone, of a file that is not checked yet: most have none that is wanted."""
    file, _ = sidecar_files(folder)
    with pa.memory_map(str(file)) as source:
        try:
            table = pa.ipc.open_file(source).read_all()
        except pa.ArrowInvalid:
            return set()
        return {key for side in SIDES for key in table[f"{side}_key"].to_pylist()}


def _values(table: pa.Table, wanted: set[str]) -> Mapping[str, Logps]:
    found: dict[str, Logps] = {}
    for side in SIDES:
        for key, logps in zip(table[f"{side}_key"].to_pylist(), table[f"{side}_logps"], strict=True):
            if key in wanted:
                found[key] = logps.values.to_numpy(zero_copy_only=False)
    return found
