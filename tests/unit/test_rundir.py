import pytest

from orchestrator.rundir import open_run
from rollout.errors import UsageError
from tests.support.tiny_config import tiny_config


@pytest.fixture
def root(tmp_path):
    open_run(tmp_path / "run", tiny_config(tmp_path))
    return tmp_path / "run"


def config(root, **changes):
    return tiny_config(root.parent, **changes)


def test_the_same_configuration_resumes(root):
    before = (root / "config.json").read_bytes()
    open_run(root, config(root))
    assert (root / "config.json").read_bytes() == before


def test_operational_settings_change_freely_and_are_journalled(root):
    run = open_run(root, config(root, num_rounds=9))
    assert run.config_at(0).num_rounds == 9
    assert run.file.amendments[0].changes == ("num_rounds: 2 -> 9",)


def test_identity_settings_need_a_run_of_their_own(root):
    with pytest.raises(UsageError, match="seed: 17 -> 3"):
        open_run(root, config(root, seed=3))
    with pytest.raises(UsageError, match="seed: 17 -> 3"):
        open_run(root, config(root, seed=3), amend=True)


def test_per_round_settings_need_amend_and_hold_from_the_next_unopened_round(root):
    new = config(root, learner__beta=0.5)
    (root / "rounds/0000").mkdir(parents=True)
    (root / "rounds/0000/drawn.json").write_text("{}")
    with pytest.raises(UsageError, match=r"learner.beta: 0.1 -> 0.5.*--amend"):
        open_run(root, new)
    run = open_run(root, new, amend=True)
    assert (run.config_at(0).learner.beta, run.config_at(1).learner.beta) == (0.1, 0.5)
    assert run.settings_hash(0) != run.settings_hash(1)
    assert open_run(root, new).config_at(0).learner.beta == 0.1


def test_before_the_first_round_settings_of_rounds_change_freely(root):
    run = open_run(root, config(root, learner__beta=0.5))
    assert run.config_at(0).learner.beta == 0.5


def test_the_run_id_is_a_hash_of_identity_settings_alone(tmp_path):
    one = open_run(tmp_path / "one", tiny_config(tmp_path))
    two = open_run(tmp_path / "two", tiny_config(tmp_path, learner__beta=0.7, num_rounds=5))
    three = open_run(tmp_path / "three", tiny_config(tmp_path, seed=1))
    assert one.run_id == two.run_id != three.run_id
