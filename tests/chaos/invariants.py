"""What must hold of a run directory after anything that may happen to it; knows files, and nothing of who writes them.

The layout is that of DESIGN.md, section 3. Every violation is an AssertionError that names the file or the round.
"""

import hashlib
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa

COMPARED = ("rounds", "policies", "learner")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _table(path: Path) -> pa.Table:
    with pa.memory_map(str(path)) as file:
        return pa.ipc.open_file(file).read_all()


def _records(root: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(root.glob("rounds/*/record.json"))]


class Ledger:
    """Remembers what was committed when no process of the run was alive, and that it only ever grows."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._records: dict[str, dict[str, Any]] = {}

    def look(self, root: Path) -> None:
        """Raise AssertionError where something that was committed has changed or gone; remember what is new."""
        now = committed(root)
        for name, sha256 in self._files.items():
            assert name in now, f"{name} was committed, and is gone"
            assert now[name] == sha256, f"{name} was committed, and has changed"
        self._files = now
        for path in sorted(root.glob("rounds/*/record.json")):
            record, before = json.loads(path.read_text()), self._records.get(path.parent.name, {})
            for field, value in before.items():
                is_open = value in (None, [], {})
                assert is_open or record[field] == value, f"{path}: {field} was committed, and has changed"
            self._records[path.parent.name] = record

    def forget(self, root: Path, *paths: Path) -> None:
        """These files count as never committed: a fault has taken them back, as a crash a moment earlier would."""
        for path in paths:
            self._files.pop(path.relative_to(root).as_posix(), None)


def committed(root: Path) -> dict[str, str]:
    """sha256 by path: shards with their manifests, prompts drawn, and the policies and states that updates name."""
    found: set[Path] = set(root.glob("rounds/*/drawn.json"))
    for manifest in root.glob("rounds/*/**/[0-9]*.json"):
        found |= {manifest, manifest.with_suffix(".arrow")}
    for record in _records(root):
        if record["update"] and record["update"]["num_steps"]:
            policy = record["update"]["policy_out"]
            folders = (root / policy["path"], root / f"learner/{policy['version'] - 1:04d}")
            found |= {path for folder in folders for path in folder.rglob("*") if path.is_file()}
    return {path.relative_to(root).as_posix(): _sha256(path) for path in sorted(found)}


def digest(root: Path, *, without_evidence: bool = False) -> dict[str, str]:
    """sha256 of each file that does not depend on who made it, and when.

    without_evidence: of verdicts only what they say, for people leave their number and the side that they saw.
    """
    found = {}
    for path in sorted(path for top in COMPARED for path in (root / top).rglob("*") if path.is_file()):
        name = path.relative_to(root).as_posix()
        if without_evidence and ("/verdicts/" in name or "/evaluation/" in name):
            if path.suffix == ".arrow" and "evidence" in _table(path).column_names:
                said = _table(path).drop_columns(["evidence"]).to_pylist()
                found[name] = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
            continue
        found[name] = _sha256(path)
    return found


def check_same(root: Path, undisturbed: dict[str, str], *, without_evidence: bool) -> None:
    """Raise AssertionError unless the files are those of the run that nobody disturbed."""
    now = digest(root, without_evidence=without_evidence)
    differing = sorted(name for name in now.keys() | undisturbed.keys() if now.get(name) != undisturbed.get(name))
    assert not differing, f"{len(differing)} files differ from the undisturbed run's, first {differing[:3]}"


def check_finished(root: Path, *, num_rounds: int, max_policy_lag: int, num_epochs: int, batch_pairs: int) -> int:
    """Raise AssertionError unless the books of a finished run balance; the number of its pairs."""
    leftovers = list(root.rglob(".tmp-*"))
    assert not leftovers, f"temporary files are left: {leftovers[:3]}"
    records = _records(root)
    assert [record["round_id"] for record in records] == list(range(num_rounds))
    pair_ids: list[str] = []
    for record in records:
        _check_record(record, records, max_policy_lag)
        _check_groups(root, record)
        pair_ids += _check_pairs(root, record)
        _check_steps(root, record, num_epochs=num_epochs, batch_pairs=batch_pairs)
    twice = [pair_id for pair_id, num in Counter(pair_ids).items() if num > 1]
    assert not twice, f"pairs stand twice: {twice[:3]}"
    return len(pair_ids)


def _check_record(record: dict[str, Any], records: list[dict[str, Any]], max_policy_lag: int) -> None:
    round_id = record["round_id"]
    for field in ("shards", "update", "scores", "policy_next"):
        assert record[field] is not None, f"round {round_id} has no {field}"
    if round_id:
        assert record["policy_in"] == records[round_id - 1]["policy_next"], f"round {round_id} begins elsewhere"
    sampled_in = records[max(0, round_id - max_policy_lag)]
    assert record["policy_sampled"] == sampled_in["policy_in"], f"round {round_id} was sampled by another policy"


def _check_groups(root: Path, record: dict[str, Any]) -> None:
    """Each completion says which weights sampled which of its tokens, and they are those of the record."""
    folder = root / f"rounds/{record['round_id']:04d}"
    version, prompt_ids = record["policy_sampled"]["version"], []
    for manifest in sorted((folder / "groups").glob("[0-9]*.json")):
        shard = json.loads(manifest.read_text())
        assert shard["policy_version"] == version, manifest
        prompt_ids += [prompt_id for ids in shard["rejected"].values() for prompt_id in ids]
        for row in _table(_intact(root, shard)).to_pylist():
            prompt_ids.append(row["prompt_id"])
            for tokens, logps, spans in zip(row["token_ids"], row["logps"], row["weight_versions"], strict=True):
                assert len(tokens) == len(logps) > 0, manifest
                ends = [0, *(span["end"] for span in spans)]
                assert [span["start"] for span in spans] == ends[:-1], f"{manifest}: spans leave a gap"
                assert ends[-1] == len(tokens), f"{manifest}: spans do not cover the answer"
                assert {span["version"] for span in spans} == {version}, f"{manifest}: sampled by other weights"
    _once(prompt_ids, root, record, "its groups")


def _check_pairs(root: Path, record: dict[str, Any]) -> list[str]:
    """Every prompt has its pairs, or stands under one counted reason; the ids of the pairs."""
    folder = root / f"rounds/{record['round_id']:04d}"
    on_disk = {path.relative_to(root).as_posix() for path in (folder / "pairs").glob("*.arrow")}
    assert on_disk == {shard["path"] for shard in record["shards"]}, f"{folder}/pairs is not what the record names"
    accounted, pair_ids, num_rejected = [], [], Counter[str]()
    for shard in record["shards"]:
        rows = _table(_intact(root, shard)).to_pylist()
        assert len(rows) == shard["num_pairs"] + shard["num_unpaired"], shard["path"]
        assert {row["policy_version"] for row in rows} <= {record["policy_sampled"]["version"]}, shard["path"]
        pair_ids += [row["pair_id"] for row in rows]
        accounted += sorted({row["prompt_id"] for row in rows})
        for reason, ids in shard["rejected"].items():
            accounted += ids
            num_rejected[reason] += len(ids)
    assert num_rejected == Counter(record["num_rejected"]), f"{folder}: reasons are counted wrongly"
    _once(accounted, root, record, "its pairs and reasons")
    return pair_ids


def _once(prompt_ids: list[str], root: Path, record: dict[str, Any], what: str) -> None:
    """Every prompt that the round drew, exactly once."""
    drawn = json.loads((root / f"rounds/{record['round_id']:04d}/drawn.json").read_text())["prompt_ids"]
    assert len(set(drawn)) == len(drawn) == record["num_prompts"]
    wrong = {prompt_id: num for prompt_id, num in Counter(prompt_ids).items() if num != 1}
    assert not wrong, f"round {record['round_id']}: {what} hold prompts more than once: {wrong}"
    assert set(prompt_ids) == set(drawn), f"round {record['round_id']}: {what} leave prompts out, or invent some"


def _check_steps(root: Path, record: dict[str, Any], *, num_epochs: int, batch_pairs: int) -> None:
    """Steps follow from the pairs, the policy from the steps."""
    update, round_id = record["update"], record["round_id"]
    num_untrained = sum(int(num) for name, num in update["metrics"].items() if name.startswith("num_rejected_pair_"))
    num_untrained -= int(update["metrics"].get("num_rejected_pair_unpaired", 0))
    num_pairs = sum(shard["num_pairs"] for shard in record["shards"])
    assert update["num_pairs"] == num_pairs - num_untrained, f"round {round_id} learnt from other pairs than it has"
    assert update["num_steps"] == num_epochs * math.ceil(update["num_pairs"] / batch_pairs), f"round {round_id}: steps"
    out, before = update["policy_out"], record["policy_in"]
    assert out == before if update["num_steps"] == 0 else out["version"] == round_id + 1, f"round {round_id}: version"
    assert (root / out["path"] / "config.json").exists()


def _intact(root: Path, shard: dict[str, Any]) -> Path:
    path = root / shard["path"]
    assert _sha256(path) == shard["sha256"], f"{path} is not what its manifest says"
    return path
