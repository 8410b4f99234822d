"""`rondo export`: a round's policy as a Hugging Face folder, and its pairs as a dataset."""

import json
import shutil
from pathlib import Path

import pyarrow.compute as pc

from judge.shards import PAIR_SCHEMA
from orchestrator.journal import Journal
from orchestrator.retention import published_versions
from rollout.errors import UsageError
from rollout.shards import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    adapter_base,
    base_folder,
    hash_policy,
    read_shard,
    write_shard,
)


def export_round(journal: Journal, round_id: int, out: Path) -> dict[str, object]:
    """Copy the round's policy to OUT/policy and its pair shards to OUT/pairs; what was written.

    Checksums are verified on the way. Raises UsageError where OUT exists or the round has no update yet.
    """
    records = {record.round_id: record for record in journal.records()}
    record = records.get(round_id)
    if record is None or record.update is None:
        trained = [number for number, known in records.items() if known.update is not None]
        raise UsageError(f"round {round_id} has no trained policy; rounds {trained} have")
    if out.exists() and any(out.iterdir()):
        raise UsageError(f"{out} is not empty; give a new folder")
    policy = record.update.policy_out
    root = journal.run.root
    if not (root / policy.path).exists():
        raise UsageError(
            f"policy v{policy.version} of round {round_id} was deleted by retention.policies; {root} still "
            f"has {', '.join(f'v{version}' for version in [0, *published_versions(root)])}"
        )
    out.mkdir(parents=True, exist_ok=True)
    _copy_policy(root / policy.path, out / "policy", sha256=policy.sha256)
    (out / "pairs").mkdir()
    for shard in record.shards or ():
        pairs = read_shard(root / shard.path, shard.sha256, PAIR_SCHEMA)
        # Ties are kept in a run, and trainers that read the folder would take them for preferences.
        write_shard(out / "pairs" / Path(shard.path).name, pairs.filter(pc.field("outcome") == "chosen"))
    card = {
        "run_id": journal.run.run_id,
        "round": round_id,
        "policy_version": policy.version,
        "policy_sha256": policy.sha256,
        "num_pairs": record.num_pairs,
        "num_unpaired": record.num_unpaired,
    }
    (out / "rondo.json").write_text(json.dumps(card, indent=2) + "\n")
    return {**card, "out": str(out)}


def _copy_policy(source: Path, target: Path, *, sha256: str) -> None:
    """An adapter is laid into a copy of its base: transformers then loads both, and peft either."""
    base = adapter_base(source)
    for folder, expected in [(base_folder(source), base.sha256 if base else sha256), (source, sha256)]:
        if hash_policy(folder) != expected:
            raise UsageError(f"{folder} was altered: its sha256 is not the one in the journal")
    shutil.copytree(base_folder(source), target, symlinks=False)
    if base is not None:
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(source / name, target / name)
