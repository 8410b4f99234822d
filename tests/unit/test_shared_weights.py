"""Weights through shared memory: the very tensors of the folder, or none, or an error; never anything else."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rollout.config import RolloutConfig
from rollout.encoder import PromptEncoder
from rollout.errors import InfraError, IntegrityError
from rollout.reference_engine import ReferenceEngine
from rollout.shards import hash_policy
from rollout.shared_weights import WeightOffer, ask_for_offers, offered_weights
from rollout.types import PolicyRef, Sampling
from rollout.worker import RolloutWorker
from tests.support.tiny_policy import make_tiny_policy

PROMPT = np.array([1, 3, 40, 41, 2, 4], np.int32)
SAMPLING = Sampling(num_completions=2, temperature=1.0, top_p=1.0, max_new_tokens=12)


@pytest.fixture(autouse=True)
def _meet_here(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


@pytest.fixture(scope="module")
def policies(tmp_path_factory) -> tuple[Path, list[PolicyRef]]:
    root = tmp_path_factory.mktemp("run")
    folders = [make_tiny_policy(root / f"policies/v{seed:04d}", seed=seed) for seed in range(3)]
    refs = [
        PolicyRef(version=n, path=folder.relative_to(root).as_posix(), sha256=hash_policy(folder))
        for n, folder in enumerate(folders)
    ]
    return root, refs


@pytest.fixture
def offer(policies):
    ask_for_offers(policies[0])
    return WeightOffer(policies[0])


def worker_of(root: Path, engine: ReferenceEngine, **settings) -> RolloutWorker:
    encoder = PromptEncoder(path=root / "policies/v0000", max_prompt_tokens=100)
    return RolloutWorker(engine=engine, encoder=encoder, run_dir=root, settings=RolloutConfig(**settings))


def memory_of(offer: WeightOffer) -> int:
    return offer._held[0]


def test_what_arrives_is_what_was_published(policies, offer):
    root, (_, policy, _) = policies
    assert offer.make(policy, root / policy.path)
    expected = load_file(root / policy.path / "model.safetensors")
    with offered_weights(root, policy, root / policy.path) as weights:
        found = dict(weights.tensors())
        assert weights.road == "shared_memory"
        assert weights.size_bytes == (root / policy.path / "model.safetensors").stat().st_size
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_nothing_is_offered_where_no_engine_asks_nor_an_adapter(policies, offer):
    root, (policy, *_) = policies
    assert not WeightOffer(root / "elsewhere").make(policy, root / policy.path)
    assert not offer.make(replace(policy, kind="adapter"), root / policy.path)


def test_another_policy_is_not_taken_for_the_one_asked_for(policies, offer):
    root, (_, policy, other) = policies
    offer.make(policy, root / policy.path)
    for wanted in (other, replace(policy, sha256=other.sha256)):
        with offered_weights(root, wanted, root / wanted.path) as weights:
            assert weights is None


def test_an_engine_keeps_what_it_reads_while_the_next_policy_is_offered(policies, offer):
    root, (_, policy, after) = policies
    offer.make(policy, root / policy.path)
    expected = load_file(root / policy.path / "model.safetensors")
    with offered_weights(root, policy, root / policy.path) as weights:
        offer.make(after, root / after.path)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.tensors())


def test_memory_that_has_come_in_the_place_of_what_was_offered_is_not_taken(policies, offer):
    """A learner that ended, and a file of its successor under the same number."""
    root, (_, policy, _) = policies
    offer.make(policy, root / policy.path)
    number = memory_of(offer)
    offer.close()
    with offered_weights(root, policy, root / policy.path) as weights:
        assert weights is None
    other = os.memfd_create("other")  # mostly the number that has just become free
    os.dup2(other, number)
    with offered_weights(root, policy, root / policy.path) as weights:
        assert weights is None
    for memory in {other, number}:
        os.close(memory)


def test_one_changed_byte_is_noticed(policies, offer):
    root, (_, policy, _) = policies
    offer.make(policy, root / policy.path)
    os.pwrite(memory_of(offer), b"\x55\xaa", os.fstat(memory_of(offer)).st_size - 7)
    with (
        offered_weights(root, policy, root / policy.path) as weights,
        pytest.raises(InfraError, match=r"of v0001 arrived altered by shared_memory: its bytes hash to"),
    ):
        list(weights.tensors())


def test_a_meeting_place_of_somebody_else_is_refused(policies, tmp_path):
    root, (policy, *_) = policies
    real = tmp_path / "elsewhere"
    real.mkdir()
    (tmp_path / f"rondo-weights-{os.geteuid()}").symlink_to(real)
    with pytest.raises(InfraError, match="belongs to another user; remove it"):
        ask_for_offers(root)
    assert not WeightOffer(root).make(policy, root / policy.path)


async def test_an_engine_is_bit_for_bit_as_a_fresh_one_and_reads_no_folder(policies, offer, tmp_path):
    root, (base, policy, _) = policies
    fresh = ReferenceEngine(stop_ids=(2,))
    await fresh.start(policy, root / policy.path)
    expected = await fresh.generate(PROMPT, SAMPLING, key="a")
    engine = ReferenceEngine(stop_ids=(2,))
    worker = worker_of(root, engine)
    await worker.start(base)
    offer.make(policy, root / policy.path)
    weights = root / policy.path / "model.safetensors"
    shutil.move(weights, tmp_path / "away")
    try:
        with pytest.raises(IntegrityError):  # so nothing would come from there
            await worker.start(policy)
        weights.touch()
        report = await worker.load(policy)
    finally:
        shutil.move(tmp_path / "away", weights)
    assert report.road == "shared_memory"
    found = await engine.generate(PROMPT, SAMPLING, key="a")
    assert [one.token_ids.tolist() for one in found] == [one.token_ids.tolist() for one in expected]
    assert [one.logps.tobytes() for one in found] == [one.logps.tobytes() for one in expected]


async def test_half_a_policy_answers_nothing_and_start_reads_the_folder(policies, offer):
    root, (base, policy, _) = policies
    engine = ReferenceEngine(stop_ids=(2,))
    worker = worker_of(root, engine)
    await worker.start(base)
    offer.make(policy, root / policy.path)
    os.pwrite(memory_of(offer), b"\x55\xaa", os.fstat(memory_of(offer)).st_size - 7)
    with pytest.raises(InfraError, match="arrived altered"):
        await worker.load(policy)
    with pytest.raises(InfraError, match="holds no policy"):
        await engine.generate(PROMPT, SAMPLING, key="a")
    await worker.start(policy)
    assert len(await engine.generate(PROMPT, SAMPLING, key="a")) == 2


async def test_the_folder_is_taken_where_the_configuration_says_so(policies, offer):
    root, (base, policy, _) = policies
    worker = worker_of(root, ReferenceEngine(stop_ids=(2,)), weight_sync="folder")
    await worker.start(base)
    offer.make(policy, root / policy.path)
    assert (await worker.load(policy)).road == "folder"
