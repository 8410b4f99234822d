"""The suite's own measure: each invariant holds of an undisturbed run, and fails where that run is tampered with."""

import json
import shutil

import pyarrow as pa
import pytest

from orchestrator.config import parse_config
from tests.chaos.endings import check_code
from tests.chaos.faults import Struck
from tests.chaos.invariants import Ledger, check_finished, check_same, digest
from tests.chaos.plans import BATCH_PAIRS, NUM_EPOCHS, NUM_ROUNDS, VARIANTS, plan, settings
from tests.support.tiny_policy import make_tiny_policy
from tests.support.tiny_run import tiny_run

pytestmark = pytest.mark.integration

BOOKS = {"num_rounds": NUM_ROUNDS, "max_policy_lag": 0, "num_epochs": NUM_EPOCHS, "batch_pairs": BATCH_PAIRS}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    tree = settings(VARIANTS[1], policy=str(make_tiny_policy(folder / "policy", context=128)), endpoint="")
    tiny_run(parse_config(tree, origin="chaos"), folder / "run")
    return folder / "run"


@pytest.fixture
def root(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run", symlinks=True)


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_rows(root, kind, change):
    """Rewrite the first shard that has rows, with hashes to match, as a program that errs would."""
    for manifest in sorted(root.glob(f"rounds/0001/{kind}/*.json")):
        shard = manifest.with_suffix(".arrow")
        with pa.memory_map(str(shard)) as file:
            table = pa.ipc.open_file(file).read_all()
        rows = table.to_pylist()
        if len(rows) > 1:
            changed = pa.Table.from_pylist(change(rows), schema=table.schema)
            with pa.ipc.new_file(str(shard), table.schema) as writer:
                writer.write_table(changed)
            rehash(root, manifest, shard, num_rows=changed.num_rows)
            return
    raise AssertionError(f"no shard of {kind} has two rows")


def rehash(root, manifest, shard, *, num_rows):
    import hashlib

    sha256 = hashlib.sha256(shard.read_bytes()).hexdigest()
    change_json(manifest, sha256=sha256)
    path = root / "rounds/0001/record.json"
    record = json.loads(path.read_text())
    for one in record["shards"]:
        if one["path"] == shard.relative_to(root).as_posix():
            one |= {"sha256": sha256, "num_pairs": num_rows}
    path.write_text(json.dumps(record))


def test_an_undisturbed_run_balances_its_books(root):
    assert check_finished(root, **BOOKS) > NUM_ROUNDS
    check_same(root, digest(root), without_evidence=False)


def twice(rows):
    return [rows[0], *rows]


def one_less(rows):
    return rows[1:]


def other_weights(rows):
    rows[0]["weight_versions"][0][0]["version"] += 1
    return rows


def shorter_span(rows):
    rows[0]["weight_versions"][0][-1]["end"] -= 1
    return rows


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("pairs", twice, "pairs stand twice|learnt from other pairs"),
        ("pairs", one_less, "leave prompts out"),
        ("groups", twice, "more than once"),
        ("groups", one_less, "leave prompts out"),
        ("groups", other_weights, "other weights"),
        ("groups", shorter_span, "do not cover"),
    ],
)
def test_rows_that_were_tampered_with_are_found(root, kind, change, message):
    change_rows(root, kind, change)
    with pytest.raises(AssertionError, match=message):
        check_finished(root, **BOOKS)


def test_steps_that_do_not_follow_from_the_pairs_are_found(root):
    path = root / "rounds/0001/record.json"
    record = json.loads(path.read_text())
    record["update"]["num_steps"] += 1
    path.write_text(json.dumps(record))
    with pytest.raises(AssertionError, match="steps"):
        check_finished(root, **BOOKS)


def test_what_a_killed_writer_left_is_found(root):
    (root / "rounds/0001/pairs/.tmp-1-00000.arrow").touch()
    with pytest.raises(AssertionError, match="temporary files"):
        check_finished(root, **BOOKS)


@pytest.mark.parametrize("name", ["rounds/0001/groups/00000.arrow", "policies/v0001/model.safetensors"])
def test_a_byte_that_changes_after_its_commit_is_found(root, name):
    ledger = Ledger()
    ledger.look(root)
    ledger.look(root)
    data = (root / name).read_bytes()
    (root / name).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(AssertionError, match="committed, and has changed"):
        ledger.look(root)
    (root / name).unlink()
    with pytest.raises((AssertionError, FileNotFoundError), match=name):
        ledger.look(root)


def test_a_stage_that_is_committed_twice_is_found(root):
    ledger = Ledger()
    ledger.look(root)
    change_json(root / "rounds/0000/record.json", num_prompts=1)
    with pytest.raises(AssertionError, match="num_prompts was committed, and has changed"):
        ledger.look(root)


def test_a_file_too_many_or_of_other_bytes_differs_from_the_undisturbed_run(root):
    before = digest(root)
    (root / "rounds/0000/pairs/00009.arrow").touch()
    with pytest.raises(AssertionError, match="1 files differ"):
        check_same(root, before, without_evidence=False)


def test_exit_codes_need_a_reason():
    killed, stopped, full = Struck(what=""), Struck(what="", codes=(3,)), Struck(what="", codes=(1,))
    for code, said, made in (
        (0, "", []),
        (0, "", [killed]),
        (1, "failed: engine 0", [killed]),
        (3, "", [stopped]),
        (1, "failed: No space", [full]),
    ):
        check_code(code, said, made)
    for code, said, made in (
        (1, "failed: engine 0", []),
        (2, "error: wrong", [killed]),
        (3, "", [killed]),
        (0, "", [full]),
        (1, "Traceback (most recent call last): failed: x", [full]),
        (-9, "", [killed]),
        (1, "", [killed]),
    ):
        with pytest.raises(AssertionError):
            check_code(code, said, made)


def test_a_seed_gives_the_same_plans_and_all_kinds():
    plans = [plan(17, number) for number in range(40)]
    assert plans == [plan(17, number) for number in range(40)]
    assert plans[0] != plan(18, 0)
    made = {injection.kind for one in plans for injection in one.injections}
    assert made == {kind for variant in VARIANTS for kind in variant.kinds}
    assert all(len(plan(17, number, at_most=1).injections) == 1 for number in range(5))
