"""Retention deletes what nothing needs any more, all or nothing of it, and a run resumes without it."""

import os
import re

import pytest

from orchestrator.export import export_round
from orchestrator.retention import published_versions, refuse_deleted, state_versions
from orchestrator.rundir import open_run
from orchestrator.status import read_metrics
from rollout.errors import UsageError
from tests.support.files import digest
from tests.support.local_cluster import load_one_at_a_time
from tests.support.tiny_config import tiny_config
from tests.support.tiny_policy import make_tiny_policy
from tests.support.tiny_run import tiny_run

pytestmark = pytest.mark.integration

ONE_OF_EACH = {"policies": 1, "learner_states": 1}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("policy"))


def config(policy, **changes):
    return tiny_config(
        policy,
        **{
            "num_rounds": 3,
            "prompts__num_per_round": 2,
            "rollout__num_completions": 2,
            "rollout__max_new_tokens": 4,
            "evaluation__num_prompts": 1,
            "probe__num_completions": 2,
            "retention": ONE_OF_EACH,
            **changes,
        },
    )


def test_the_newest_are_kept_and_what_is_deleted_is_counted(policy, tmp_path):
    root = tmp_path / "run"
    journal = tiny_run(config(policy), root)
    assert (published_versions(root), state_versions(root)) == ([3], [3])
    assert (root / "policies/v0000").is_dir()
    lines = [line for line in read_metrics(root) if line["kind"] == "retired"]
    assert [line["policies"] for line in lines] == [[1], [2]]
    assert sum(line["num_learner_states"] for line in lines) == 2
    assert all(line["size_bytes"] > 0 for line in lines)
    with pytest.raises(UsageError, match=r"policy v1 of round 0 was deleted by retention.policies; .* has v0, v3"):
        export_round(journal, 0, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_round(journal, 2, tmp_path / "out")
    before = digest(root)
    more = tiny_run(config(policy, num_rounds=4), root)
    assert [record.policy_in.version for record in more.records()] == [0, 1, 2, 3]
    assert (
        before.items()
        >= {k: v for k, v in digest(root).items() if k.startswith("rounds/000") and k < "rounds/0003"}.items()
    )


def test_the_policy_that_the_gate_rolls_back_to_stays(policy, tmp_path):
    gate = {"max_kl": 1e-12, "action": "rollback"}  # no update is small enough for that
    journal = tiny_run(config(policy, evaluation__gate=gate, num_rounds=2), tmp_path / "all")
    assert [record.policy_next.version for record in journal.records()] == [0, 0]
    root = tmp_path / "run"
    tiny_run(config(policy, num_rounds=1), root)
    later = config(policy, evaluation__gate=gate)
    journal = tiny_run(later, root, amend=True)
    assert [record.policy_next.version for record in journal.records()] == [1, 1, 1]
    assert published_versions(root) == [1, 3], "the good one, and the newest"
    assert state_versions(root) == [1, 3]


def test_a_policy_that_rounds_ahead_are_sampled_by_stays(policy, tmp_path, monkeypatch):
    load_one_at_a_time(monkeypatch)
    root = tmp_path / "run"
    settings = {"max_policy_lag": 2, "evaluation__prompts": None}
    journal = tiny_run(config(policy, num_rounds=4, **settings), root)
    assert [record.policy_sampled.version for record in journal.records()] == [0, 0, 0, 1]
    assert published_versions(root) == [2, 3, 4], "rounds 4 and 5 would be sampled by v2 and v3"
    # Raised afterwards, the lag asks for what is gone.
    run = open_run(root, config(policy, num_rounds=5, **{**settings, "max_policy_lag": 3}), amend=True)
    with pytest.raises(UsageError, match=r"round 4 needs policy v1, which retention.policies has deleted"):
        refuse_deleted(type(journal)(run, base_policy=journal.base_policy))


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_at_a_deletion_nothing_is_half_there(policy, tmp_path, monkeypatch, after):
    settings = config(policy, evaluation__prompts=None, probe__num_completions=0)
    tiny_run(settings, tmp_path / "undisturbed")
    undisturbed = digest(tmp_path / "undisturbed")
    replace = os.replace
    for nth in (1, 2):  # the first policy, the first learner state
        root, seen = tmp_path / str(nth), []

        def killed(source, target, nth=nth, seen=seen, **kwargs):
            is_deletion = re.match(r"\.tmp-\d+-v?\d+$", os.path.basename(target)) is not None
            seen += [target] * is_deletion
            if is_deletion and len(seen) == nth and not after:
                raise Killed
            replace(source, target, **kwargs)
            if is_deletion and len(seen) == nth:
                raise Killed

        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(Killed):
            tiny_run(settings, root)
        monkeypatch.setattr(os, "replace", replace)
        whole = [len(list((root / "policies" / f"v{v:04d}").iterdir())) for v in published_versions(root)]
        assert min(whole) > 3, "a policy without some of its files"
        tiny_run(settings, root)
        assert digest(root) == undisturbed
        assert list(root.rglob(".tmp-*")) == []


def test_nothing_is_deleted_by_default(policy, tmp_path):
    tiny_run(config(policy, num_rounds=2, retention={}), tmp_path / "run")
    assert published_versions(tmp_path / "run") == [1, 2]
    assert state_versions(tmp_path / "run") == [1, 2]
