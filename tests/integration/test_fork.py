"""`rondo fork`: what it keeps, what may change, and that it goes on without its parent."""

import json
import shutil

import pytest

from learner.state import StateManifest
from orchestrator.fork import SETTINGS_FILE, fork_run
from orchestrator.rundir import read_run
from orchestrator.status import status
from rollout.errors import IntegrityError, UsageError
from rollout.shards import read_json
from tests.support.files import digest
from tests.support.tiny_config import tiny_config
from tests.support.tiny_policy import make_tiny_policy
from tests.support.tiny_run import tiny_run

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def parent(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fork")
    config = tiny_config(
        make_tiny_policy(folder / "policy"),
        prompts__num_per_round=4,
        rollout__num_completions=2,
        rollout__max_new_tokens=4,
        evaluation__num_prompts=1,
    )
    tiny_run(config, folder / "parent")
    return folder / "parent"


@pytest.fixture
def copy(parent, tmp_path):
    """A parent that a test may harm."""
    shutil.copytree(parent, tmp_path / "parent", symlinks=True)
    return tmp_path / "parent"


def fork(parent, out, round_id, *overrides, said=None):
    return fork_run(parent, out, round_id=round_id, overrides=overrides, warn=(said if said is not None else []).append)


def finish(run):
    return tiny_run(run.config, run.root)


def test_a_fork_keeps_the_rounds_before_and_learns_on_without_its_parent(copy, tmp_path):
    before = digest(copy)
    run = fork(copy, tmp_path / "fork", 1, "learner.beta=0.3")
    assert digest(copy) == before, "the parent was touched"
    shutil.rmtree(copy)
    journal = finish(run)
    after = digest(tmp_path / "fork")
    assert {name: sha for name, sha in after.items() if name.startswith("rounds/0000")} == {
        name: sha for name, sha in before.items() if name.startswith("rounds/0000")
    }
    first, second = journal.records()
    assert second.policy_in == first.policy_next
    assert (run.config_at(0).learner.beta, run.config_at(1).learner.beta) == (0.1, 0.3)
    assert journal.base_policy.sha256 == first.policy_in.sha256
    states = [read_json(tmp_path / f"fork/learner/{i:04d}/state.json", StateManifest) for i in (0, 1)]
    assert states[1].num_steps == first.update.num_steps + second.update.num_steps
    assert after["policies/v0002/model.safetensors"] != before["policies/v0002/model.safetensors"]


def test_the_run_id_depends_on_identity_and_parent_alone_and_status_shows_the_parent(parent, tmp_path):
    one, two = fork(parent, tmp_path / "one", 1), fork(parent, tmp_path / "two", 1)
    other_seed, other_round = fork(parent, tmp_path / "three", 1, "seed=3"), fork(parent, tmp_path / "four", 0)
    assert one.run_id == two.run_id
    assert len({one.run_id, other_seed.run_id, other_round.run_id, read_run(parent).run_id}) == 4
    shown = status(tmp_path / "one")["parent"]
    assert (shown["run_id"], shown["round_id"], shown["learner_state"]) == (read_run(parent).run_id, 1, "restored")
    assert status(parent)["parent"] is None


def test_its_settings_file_resumes_it(parent, tmp_path):
    from orchestrator.config import load_config
    from orchestrator.rundir import open_run

    run = fork(parent, tmp_path / "fork", 1, "seed=3", "policy.system_prompt=Be short.")
    config = load_config(tmp_path / "fork" / SETTINGS_FILE)
    before = (tmp_path / "fork/config.json").read_bytes()
    assert open_run(tmp_path / "fork", config).run_id == run.run_id
    assert (tmp_path / "fork/config.json").read_bytes() == before
    assert run.config_at(0).seed == 17
    assert run.config_at(1).seed == 3
    assert not (tmp_path / "fork/rounds/0000/evaluation").exists(), "held-out answers under another system prompt"


def test_a_fork_at_round_0_has_the_base_alone(parent, tmp_path):
    journal = finish(fork(parent, tmp_path / "fork", 0, "learner.beta=0.3", "num_rounds=1"))
    assert [record.policy_in.version for record in journal.records()] == [0]


def test_a_state_that_is_gone_is_said_and_begun_anew(copy, tmp_path):
    shutil.rmtree(copy / "learner/0000")
    said = []
    run = fork(copy, tmp_path / "fork", 1, said=said)
    assert "fp32 state of policy v1 is gone" in said[0]
    assert run.file.parent.learner_state == "begun anew"
    first, second = finish(run).records()
    state = read_json(tmp_path / "fork/learner/0001/state.json", StateManifest)
    assert state.num_steps == first.update.num_steps + second.update.num_steps


@pytest.mark.parametrize(
    ("round_id", "overrides", "message"),
    [
        (3, [], "has finished 2 rounds"),
        (2, [], "--set num_rounds=3"),
        (1, ["policy.path=elsewhere"], "keeps the base of its parent"),
        (1, ["learner.lora={rank: 4}"], "fork at --round 0"),
        (1, ["learner.replay_share=0.2", "policy.chat_template=x"], "replay_share=0"),
        (1, ["learner.bta=3"], "did you mean learner.beta"),
    ],
)
def test_what_cannot_be_forked_is_refused_and_leaves_nothing(parent, tmp_path, round_id, overrides, message):
    with pytest.raises(UsageError, match=message):
        fork(parent, tmp_path / "fork", round_id, *overrides)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("policies/v0001/model.safetensors", IntegrityError),
        ("learner/0000/masters.safetensors", IntegrityError),
        ("rounds/0000/pairs/00000.arrow", IntegrityError),
    ],
)
def test_an_altered_file_is_noticed_and_no_fork_left(copy, tmp_path, name, error):
    path = copy / name
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(error, match=r"altered"):
        fork(copy, tmp_path / "fork", 1)
    assert [found.name for found in tmp_path.iterdir()] == ["parent"]


def test_a_deleted_policy_and_a_folder_in_use_are_refused(copy, tmp_path):
    shutil.rmtree(copy / "policies/v0001")
    with pytest.raises(UsageError, match=r"v1.*retention.policies; left are v2"):
        fork(copy, tmp_path / "fork", 1)
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").write_text("")
    with pytest.raises(UsageError, match="exists already"):
        fork(copy, tmp_path / "used", 0)


def test_the_records_of_the_rounds_kept_are_hashed(parent, tmp_path):
    run = fork(parent, tmp_path / "fork", 1)
    tree = json.loads((tmp_path / "fork/config.json").read_text())
    assert tree["parent"]["records"] == [digest(parent)["rounds/0000/record.json"]]
    assert run.file.started_on == read_run(parent).file.started_on
