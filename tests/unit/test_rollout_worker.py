"""The worker with the reference engine: what ends up on disk, and what is refused."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rollout.build import engine_class
from rollout.config import RolloutConfig
from rollout.encoder import PromptEncoder
from rollout.errors import InfraError, IntegrityError, UsageError
from rollout.files import hash_policy
from rollout.groups import read_groups
from rollout.reference_engine import ReferenceEngine
from rollout.types import PolicyRef, Progress, Prompt, PromptChunk, Sampling, TokenSequence
from rollout.worker import RolloutWorker
from tests.support.tiny_policy import make_tiny_policy

SAMPLING = Sampling(num_completions=2, temperature=1.0, top_p=1.0, max_new_tokens=8)
SETTINGS = RolloutConfig(max_new_tokens=8)


def publish(run_dir: Path, version: int) -> PolicyRef:
    path = f"policies/v{version:04d}"
    make_tiny_policy(run_dir / path, seed=version)
    return PolicyRef(version=version, path=path, sha256=hash_policy(run_dir / path))


@pytest.fixture(scope="module")
def origin(tmp_path_factory):
    """A run directory with two policies."""
    root = tmp_path_factory.mktemp("run")
    return root, [publish(root, version) for version in range(2)]


@pytest.fixture
def run(origin, tmp_path):
    root, policies = origin
    (tmp_path / "policies").symlink_to(root / "policies")
    return tmp_path, policies


def make_worker(run_dir: Path, policy: PolicyRef, *, engine=None, settings=SETTINGS, **encoding) -> RolloutWorker:
    encoder = PromptEncoder(path=run_dir / policy.path, **encoding)
    engine = engine or ReferenceEngine(settings=settings, stop_ids=encoder.stop_ids, seed=3)
    return RolloutWorker(engine=engine, encoder=encoder, run_dir=run_dir, settings=settings)


def chunk_of(*texts: str, chunk_id: int = 0) -> PromptChunk:
    prompts = tuple(
        Prompt(prompt_id=f"id-{text[:9]}", messages=({"role": "user", "content": text},), source="test")
        for text in texts
    )
    return PromptChunk(chunk_id=chunk_id, round_id=4, shard_dir="rounds/0004/groups", prompts=prompts)


def files(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run_dir / "rounds").rglob("*.*"))}


async def test_an_identical_run_writes_the_same_bytes(run, tmp_path_factory):
    run_dir, (policy, _) = run
    worker = make_worker(run_dir, policy)
    await worker.start(policy)
    chunks = [chunk_of("good", "bad", chunk_id=0), chunk_of("here", chunk_id=1)]
    shards = await asyncio.gather(*[worker.generate(chunk, policy, SAMPLING) for chunk in chunks])
    assert [shard.num_groups for shard in shards] == [2, 1]

    again_dir = tmp_path_factory.mktemp("again")
    (again_dir / "policies").symlink_to(run_dir / "policies")
    again = make_worker(again_dir, policy)
    await again.start(policy)
    for chunk in reversed(chunks):
        await again.generate(chunk, policy, SAMPLING)
    assert files(again_dir) == files(run_dir)
    assert sorted(files(run_dir)) == ["00000.arrow", "00000.json", "00001.arrow", "00001.json"]


async def test_groups_hold_what_was_sampled_in_the_order_of_the_prompts(run):
    run_dir, (policy, _) = run
    worker = make_worker(run_dir, policy)
    await worker.start(policy)
    chunk = chunk_of("good", "bad", "long answer")
    shard = await worker.generate(chunk, policy, SAMPLING)
    groups = read_groups(run_dir, shard)
    assert [group.prompt for group in groups] == list(chunk.prompts)
    encoder = PromptEncoder(path=run_dir / policy.path)
    for group in groups:
        assert np.array_equal(group.prompt_token_ids, encoder.encode(group.prompt))
        assert [one.index for one in group.completions] == [0, 1]
        for one in group.completions:
            assert one.text == encoder.decode(one.token_ids)
            scored = await worker.score(
                [TokenSequence(prompt_ids=group.prompt_token_ids, completion_ids=one.token_ids)]
            )
            np.testing.assert_allclose(scored[0], one.logps, atol=1e-4)
    num_tokens = sum(len(one.token_ids) for group in groups for one in group.completions)
    assert worker.num_completed() == Progress(num_completions=6, num_tokens=num_tokens)
    assert (shard.num_tokens, shard.policy_sha256, shard.signature) == (num_tokens, policy.sha256, encoder.signature)


async def test_prompts_that_are_too_long_are_counted_and_the_others_answered(run):
    run_dir, (policy, _) = run
    settings = RolloutConfig(max_new_tokens=8, max_model_len=40)
    worker = make_worker(run_dir, policy, settings=settings)
    await worker.start(policy)
    shard = await worker.generate(chunk_of("good", "x" * 60, "y" * 70), policy, SAMPLING)
    assert shard.num_groups == 1
    assert shard.rejected == {"prompt_too_long": ("id-xxxxxxxxx", "id-yyyyyyyyy")}
    by_encoder = make_worker(run_dir, policy, max_prompt_tokens=20)
    await by_encoder.start(policy)
    shard = await by_encoder.generate(chunk_of("good", "x" * 60, chunk_id=1), policy, SAMPLING)
    assert shard.rejected == {"prompt_too_long": ("id-xxxxxxxxx",)}


async def test_prompts_in_quarantine_are_counted_and_the_others_answered_as_ever(run):
    run_dir, (policy, _) = run
    worker = make_worker(run_dir, policy)
    await worker.start(policy)
    chunk = chunk_of("good", "bad", "here")
    shard = await worker.generate(replace(chunk, quarantined=frozenset({"id-bad"})), policy, SAMPLING)
    assert shard.rejected == {"engine_crashed": ("id-bad",)}
    groups = read_groups(run_dir, shard)
    assert [group.prompt.prompt_id for group in groups] == ["id-good", "id-here"]
    assert await worker.generate(chunk, policy, SAMPLING) == shard, "a resumed run would try it again"


async def test_a_chunk_that_is_tried_out_leaves_no_file(run):
    run_dir, (policy, other) = run
    worker = make_worker(run_dir, policy)
    await worker.start(policy)
    await worker.try_out(chunk_of("good"), policy, SAMPLING)
    assert worker.num_completed().num_completions == SAMPLING.num_completions
    assert not (run_dir / "rounds").exists()
    with pytest.raises(InfraError, match=r"holds v0 .* asked for was v1"):
        await worker.try_out(chunk_of("good"), other, SAMPLING)


def test_an_engine_of_ones_own_is_found_by_its_name():
    assert engine_class("transformers") is ReferenceEngine
    assert engine_class("tests.support.moody_engine:MoodyEngine").__name__ == "MoodyEngine"
    for wrong in ("nowhere:Engine", "rollout.worker:Nothing"):
        with pytest.raises(UsageError, match=rf"rollout.engine {wrong} cannot be imported"):
            engine_class(wrong)


async def test_a_finished_shard_is_returned_untouched_and_its_engine_not_asked(run):
    run_dir, (policy, _) = run
    worker = make_worker(run_dir, policy)
    await worker.start(policy)
    chunk = chunk_of("good", "bad")
    shard = await worker.generate(chunk, policy, SAMPLING)
    before = {path: path.stat().st_mtime_ns for path in (run_dir / "rounds").rglob("*.*")}
    unstarted = make_worker(run_dir, policy)
    assert await unstarted.generate(chunk, policy, SAMPLING) == shard
    assert {path: path.stat().st_mtime_ns for path in (run_dir / "rounds").rglob("*.*")} == before


async def test_a_finished_shard_of_another_policy_or_sampling_is_named_not_returned(run):
    run_dir, (policy, other) = run
    worker = make_worker(run_dir, policy)
    await worker.start(policy)
    await worker.generate(chunk_of("good"), policy, SAMPLING)
    with pytest.raises(IntegrityError, match=r"00000.json was sampled by policy v0"):
        await worker.generate(chunk_of("good"), other, SAMPLING)
    with pytest.raises(IntegrityError, match=r"temperature=0\.5"):
        await worker.generate(chunk_of("good"), policy, replace(SAMPLING, temperature=0.5))


async def test_a_chunk_asked_for_twice_at_once_is_generated_once(run):
    run_dir, (policy, _) = run
    worker = make_worker(run_dir, policy)
    await worker.start(policy)
    first, second = await asyncio.gather(*[worker.generate(chunk_of("good"), policy, SAMPLING) for _ in range(2)])
    assert first == second
    assert worker.num_completed().num_completions == 2


async def test_an_engine_with_another_policy_is_refused_until_it_is_loaded(run):
    run_dir, (policy, other) = run
    worker = make_worker(run_dir, policy)
    with pytest.raises(InfraError, match=r"holds no policy, asked for was v0"):
        await worker.generate(chunk_of("good"), policy, SAMPLING)
    await worker.start(policy)
    with pytest.raises(InfraError, match=r"holds v0 .* asked for was v1"):
        await worker.generate(chunk_of("good"), other, SAMPLING)
    assert (await worker.load(other)).version == 1
    assert (await worker.generate(chunk_of("good"), other, SAMPLING)).policy_version == 1


async def test_an_altered_policy_is_named_and_not_loaded(run):
    run_dir, (policy, other) = run
    worker = make_worker(run_dir, policy)
    await worker.start(policy)
    with pytest.raises(IntegrityError, match=r"v0001 has sha256 .* policy v1 was altered"):
        await worker.load(replace(other, sha256="0" * 64))


class Aborting(ReferenceEngine):
    """Aborts the first completion of every prompt, and all of those of prompts longer than ten tokens."""

    async def generate(self, prompt_token_ids, sampling, *, key):
        completions = await super().generate(prompt_token_ids, sampling, key=key)
        aborted = completions if len(prompt_token_ids) > 10 else completions[:1]
        return tuple(replace(one, finish_reason="abort") if one in aborted else one for one in completions)


async def test_aborted_completions_are_dropped_and_a_prompt_without_any_is_counted(run):
    run_dir, (policy, _) = run
    worker = make_worker(run_dir, policy, engine=Aborting(stop_ids=(2,)))
    await worker.start(policy)
    shard = await worker.generate(chunk_of("good", "zzzzzzzzzzzzzzzz"), policy, SAMPLING)
    (group,) = read_groups(run_dir, shard)
    assert [one.index for one in group.completions] == [1]
    assert shard.rejected == {"generation_aborted": ("id-zzzzzzzzz",)}


class Failing(ReferenceEngine):
    """Fails on its second prompt, and notes which requests were given up."""

    calls = 0
    given_up = 0

    async def generate(self, prompt_token_ids, sampling, *, key):
        self.calls += 1
        if self.calls == 2:
            raise InfraError("the device fell off the bus")
        try:
            await asyncio.sleep(60)
        finally:
            self.given_up += 1


async def test_a_failing_engine_leaves_no_shard_and_no_work_behind(run):
    run_dir, (policy, _) = run
    engine = Failing(stop_ids=(2,))
    worker = make_worker(run_dir, policy, engine=engine)
    await worker.start(policy)
    with pytest.raises(InfraError, match="fell off the bus"):
        await worker.generate(chunk_of("good", "bad", "here"), policy, SAMPLING)
    await asyncio.sleep(0)
    assert (engine.calls, engine.given_up) == (3, 2)
    assert not (run_dir / "rounds").exists()


async def test_a_shard_that_outlives_its_deadline_says_which(run):
    run_dir, (policy, _) = run
    settings = RolloutConfig(generate_timeout_s=0.05)
    worker = make_worker(run_dir, policy, engine=Failing(stop_ids=(2,)), settings=settings)
    await worker.start(policy)
    with pytest.raises(InfraError, match=r"shard 0 of round 4 \(1 prompts\) was not done within .* 0.05 s"):
        await worker.generate(chunk_of("good"), policy, SAMPLING)
