"""To resume is to run: a run killed at any commit, and at any two, ends with the files of the undisturbed run.

The engine is the bit-reproducible one and the learner is real, so files are compared byte for byte. A kill is an
exception that nothing catches, raised in place of a rename: what had been written so far stays, as after SIGKILL.
"""

import itertools
import multiprocessing
import os
import shutil
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from learner.model import load_model
from orchestrator.export import export_round
from tests.support.files import digest
from tests.support.local_cluster import load_one_at_a_time
from tests.support.tiny_config import tiny_config
from tests.support.tiny_policy import make_tiny_policy
from tests.support.tiny_run import tiny_run

pytestmark = pytest.mark.integration


class Killed(BaseException):
    pass


class Renames:
    """Counts the renames that put files into place below a run directory, and kills one of them."""

    def __init__(self, monkeypatch):
        self.num, self.kill_at, self.counts = 0, None, anything
        self._one_at_a_time = threading.Lock()
        self._replace = os.replace
        monkeypatch.setattr(os, "replace", self)

    def __call__(self, source, target, **kwargs):
        with self._one_at_a_time:
            if self.counts(Path(target)):
                self.num += 1
                if self.kill_at is not None and self.num >= self.kill_at:  # what is dead in one thread is in all
                    raise Killed(str(target))
            self._replace(source, target, **kwargs)

    def arm(self, kill_at, *, counts=None):
        self.num, self.kill_at, self.counts = 0, kill_at, counts or anything


def anything(target: Path) -> bool:
    return True


def is_commit(target: Path) -> bool:
    """Manifests, records and whole folders make work visible; a shard without its manifest does not exist yet."""
    return target.suffix != ".arrow"


def is_about_the_policy(target: Path) -> bool:
    """From the reference's values to the commit of the scores: all that knows what kind of policy is learnt."""
    if not is_commit(target):
        return False
    return bool({"policies", "learner", "reference", "evaluation"} & set(target.parts)) or target.name == "record.json"


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def config(policy):
    return tiny_config(policy, prompts__num_per_round=4, rollout__num_completions=2, rollout__max_new_tokens=6)


@pytest.fixture
def renames(monkeypatch):
    return Renames(monkeypatch)


@pytest.fixture
def undisturbed(config, renames, tmp_path):
    tiny_run(config, tmp_path / "undisturbed")
    return digest(tmp_path / "undisturbed")


def attempt(config, root, renames, kill_at, **kwargs) -> bool:
    """Whether the run was killed on the way."""
    renames.arm(kill_at, **kwargs)
    try:
        tiny_run(config, root)
    except Killed:
        return True
    return False


def killed_one_by_one(config, folder, renames, undisturbed, *, counts=None) -> int:
    """Kill a run at each rename that counts, go on from there, and compare; how many there were."""
    for kill_at in itertools.count(1):
        root = folder / str(kill_at)
        if not attempt(config, root, renames, kill_at, counts=counts):
            return kill_at - 1
        renames.arm(None)
        tiny_run(config, root)
        assert digest(root) == undisturbed, f"killed at rename {kill_at} of those that count"
        shutil.rmtree(root)
    raise AssertionError


def test_two_runs_have_the_same_bytes(config, undisturbed, tmp_path):
    tiny_run(config, tmp_path / "again")
    assert digest(tmp_path / "again") == undisturbed
    assert any("learner/0001" in name for name in undisturbed)


def test_killed_at_every_rename(config, renames, undisturbed, tmp_path):
    num_kills = killed_one_by_one(config, tmp_path, renames, undisturbed)
    assert num_kills >= 40, "the test found fewer renames than two rounds have"


def test_killed_at_every_commit_while_rounds_overlap(policy, renames, tmp_path, monkeypatch):
    load_one_at_a_time(monkeypatch)
    changes = {"num_rounds": 3, "max_policy_lag": 1, "prompts__num_per_round": 2, "rollout__num_completions": 2}
    config = tiny_config(policy, rollout__max_new_tokens=4, evaluation__prompts=None, **changes)
    tiny_run(config, tmp_path / "undisturbed")
    undisturbed = digest(tmp_path / "undisturbed")
    num_kills = killed_one_by_one(config, tmp_path, renames, undisturbed, counts=is_commit)
    assert num_kills >= 20, "the test found fewer commits than three rounds have"


@pytest.mark.parametrize("publish", ["merged", "adapter"])
def test_an_adapter_killed_wherever_its_policy_is_written_or_measured(policy, renames, tmp_path, publish):
    config = tiny_config(
        policy,
        prompts__num_per_round=2,
        rollout__num_completions=2,
        rollout__max_new_tokens=4,
        evaluation__num_prompts=1,
        learner__lora={"rank": 2, "alpha": 4, "publish": publish},
    )
    journal = tiny_run(config, tmp_path / "undisturbed")
    undisturbed = digest(tmp_path / "undisturbed")
    kinds = [record.update.policy_out.kind for record in journal.records()]
    assert kinds == ["adapter" if publish == "adapter" else "full"] * 2
    num_kills = killed_one_by_one(config, tmp_path, renames, undisturbed, counts=is_about_the_policy)
    assert num_kills >= 20, "the test found fewer renames than two rounds have"

    export_round(journal, 1, tmp_path / "exported")
    policy_out = journal.records()[1].update.policy_out
    ours = load_model(tmp_path / "undisturbed" / policy_out.path, device=torch.device("cpu"))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "exported/policy", dtype=torch.float32)
    ids = torch.arange(6, 26)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids).logits, ours(ids).logits, atol=1e-5, rtol=0)
    assert AutoTokenizer.from_pretrained(tmp_path / "exported/policy").chat_template
    if publish == "adapter":
        plain = AutoModelForCausalLM.from_pretrained(policy, dtype=torch.float32)
        opened = PeftModel.from_pretrained(plain, tmp_path / "exported/policy")
        with torch.no_grad():
            torch.testing.assert_close(opened(ids).logits, ours(ids).logits, atol=1e-5, rtol=0)


def pairs_config(policy):
    # Without evaluation, whose commits the test above kills one by one: pairs grow with the square.
    return tiny_config(
        policy,
        prompts__num_per_round=2,
        rollout__num_completions=2,
        rollout__max_new_tokens=4,
        evaluation__prompts=None,
    )


def undisturbed_pairs_run(policy: Path, folder: Path) -> tuple[dict[str, str], int]:
    """The files of a run that nobody kills, and how many commits it makes."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        renames = Renames(patch)
        renames.arm(None, counts=is_commit)
        tiny_run(pairs_config(policy), folder / "undisturbed")
        return digest(folder / "undisturbed"), renames.num


def pairs_after(first: int, policy: Path, folder: Path, undisturbed: dict[str, str]) -> int:
    """Kill a run at its commit `first`, and what goes on from there at each of its commits; how many pairs that was."""
    torch.set_num_threads(1)
    config, once, twice = pairs_config(policy), folder / f"{first}-once", folder / f"{first}-twice"
    with pytest.MonkeyPatch.context() as patch:
        renames = Renames(patch)
        assert attempt(config, once, renames, first, counts=is_commit)
        second, killed = 1, True
        while killed:
            shutil.copytree(once, twice, symlinks=True)
            killed = attempt(config, twice, renames, second, counts=is_commit)
            if killed:
                renames.arm(None)
                tiny_run(config, twice)
            assert digest(twice) == undisturbed, f"killed at commits {first} and then {second}"
            shutil.rmtree(twice)
            second += 1
        shutil.rmtree(once)
    return second - 2


def test_killed_at_every_pair_of_commits(policy, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))  # where the processes below find this module
    # Two at a time, in processes of their own, which know nothing of what other tests left in this one.
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        undisturbed, num_commits = pool.submit(undisturbed_pairs_run, policy, tmp_path).result()
        rest = (itertools.repeat(one) for one in (policy, tmp_path, undisturbed))
        num_pairs = sum(pool.map(pairs_after, range(1, num_commits + 1), *rest))
    assert num_pairs > 200, "the test found fewer commits than two rounds have"
