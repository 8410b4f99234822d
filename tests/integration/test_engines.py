"""One suite that every engine passes: what RolloutWorker may rely on, whichever engine the configuration names."""

import asyncio

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rollout.config import RolloutConfig
from rollout.errors import DataError, InfraError, IntegrityError
from rollout.reference_engine import ReferenceEngine, _sampling_logps
from rollout.types import PolicyRef, Sampling, TokenSequence
from rollout.vllm_engine import VllmEngine
from tests.support.tiny_policy import make_tiny_policy

pytestmark = pytest.mark.integration

PROMPTS = [np.array([1, 3, first, first + 1, 2, 4], np.int32) for first in range(40, 56)]
# One id in eight stops, so that both ways to end are common; the one that config.json names does not.
STOP_IDS = range(3, 300, 8)


def ref(version: int) -> PolicyRef:
    return PolicyRef(version=version, path=f"policies/v{version:04d}", sha256=f"{version:064d}")


def sampling(num: int = 4, temperature: float = 1.0, top_p: float = 1.0, tokens: int = 16) -> Sampling:
    return Sampling(num_completions=num, temperature=temperature, top_p=top_p, max_new_tokens=tokens)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("policies")
    return [make_tiny_policy(root / str(seed), seed=seed) for seed in range(2)]


@pytest.fixture(scope="module", params=["transformers", "vllm"])
def shared(request, folders):
    settings = RolloutConfig(max_model_len=128)
    if request.param == "vllm":
        engine = VllmEngine(settings=settings, stop_ids=STOP_IDS, dtype="float32", seed=1)
    else:
        engine = ReferenceEngine(settings=settings, stop_ids=STOP_IDS, seed=1)
    yield engine
    asyncio.run(engine.close())


@pytest.fixture
async def engine(shared, folders):
    # start() mends whatever the test before has done.
    await shared.start(ref(0), folders[0])
    return shared


@pytest.fixture(scope="module")
def models(folders):
    return [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for folder in folders]


def teacher_forced(model, prompt, token_ids, how: Sampling):
    ids = torch.from_numpy(np.concatenate([prompt, token_ids]).astype(np.int64))[None]
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].float()
    rows = [_sampling_logps(row, how)[token] for row, token in zip(logits, token_ids.tolist(), strict=True)]
    return np.array(rows, np.float32)


async def generate_all(engine, how: Sampling):
    return await asyncio.gather(*[engine.generate(prompt, how, key=str(n)) for n, prompt in enumerate(PROMPTS)])


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.7, 1.0), (1.0, 0.8), (0.7, 0.9)])
async def test_log_probabilities_are_those_of_the_distribution_sampled_from(engine, models, temperature, top_p):
    how = sampling(temperature=temperature, top_p=top_p)
    for prompt, completions in zip(PROMPTS, await generate_all(engine, how), strict=True):
        assert [one.index for one in completions] == [0, 1, 2, 3]
        for one in completions:
            assert (one.token_ids.dtype, one.logps.dtype, one.text) == (np.int32, np.float32, "")
            expected = teacher_forced(models[0], prompt, one.token_ids, how)
            np.testing.assert_allclose(one.logps, expected, atol=1e-4)


async def test_greedy_completions_are_those_of_transformers(engine, models):
    how = sampling(num=2, temperature=0.0, tokens=40)
    for prompt, completions in zip(PROMPTS, await generate_all(engine, how), strict=True):
        ids = torch.from_numpy(prompt.astype(np.int64))[None]
        best = models[0].generate(ids, do_sample=False, max_new_tokens=40, eos_token_id=list(STOP_IDS), pad_token_id=0)
        for one in completions:
            assert one.token_ids.tolist() == best[0, len(prompt) :].tolist()
        assert [one.index for one in completions] == [0, 1]


async def test_the_stop_id_that_was_sampled_stays_and_nothing_else_is_called_stop(engine):
    completions = [one for group in await generate_all(engine, sampling()) for one in group]
    assert {one.finish_reason for one in completions} == {"stop", "length"}
    for one in completions:
        stops = [place for place, token in enumerate(one.token_ids.tolist()) if token in STOP_IDS]
        assert stops == ([len(one.token_ids) - 1] if one.finish_reason == "stop" else [])
        assert one.finish_reason == "stop" or len(one.token_ids) == 16
        assert [(span.version, span.start, span.end) for span in one.weight_versions] == [(0, 0, len(one.token_ids))]


async def test_completions_of_one_prompt_differ_and_follow_its_distribution(engine, models):
    how = sampling(num=400, tokens=1)
    drawn = np.array([int(one.token_ids[0]) for one in await engine.generate(PROMPTS[0], how, key="many")])
    with torch.no_grad():
        logits = models[0](input_ids=torch.from_numpy(PROMPTS[0].astype(np.int64))[None]).logits[0, -1]
    probs = logits.softmax(-1).numpy().astype(np.float64)
    likely = np.argsort(-probs)[:8]
    counts, expected = np.bincount(drawn, minlength=len(probs))[likely], 400 * probs[likely]
    assert np.all(np.abs(counts - expected) < 5 * np.sqrt(expected) + 3), (counts, expected)


async def test_scores_are_raw_log_probabilities_whatever_was_cached_before(engine, models):
    how = sampling(num=1, temperature=0.5, top_p=0.7, tokens=24)
    sequences = [
        TokenSequence(prompt_ids=prompt, completion_ids=completions[0].token_ids)
        for prompt, completions in zip(PROMPTS, await generate_all(engine, how), strict=True)
    ]
    for _ in range(2):  # the second time every prefix has been seen
        for sequence, logps in zip(
            sequences, await asyncio.gather(*[engine.score(one) for one in sequences]), strict=True
        ):
            plain = teacher_forced(models[0], sequence.prompt_ids, sequence.completion_ids, sampling())
            assert logps.dtype == np.float32
            np.testing.assert_allclose(logps, plain, atol=1e-4)


async def test_a_completion_that_fills_the_context_is_cut_there_and_can_be_scored(engine, models):
    long = np.concatenate([PROMPTS[0], np.full(engine.context_tokens - 9, 50, np.int32)])
    completions = await engine.generate(long, sampling(num=16), key="long")
    assert max(len(one.token_ids) for one in completions) == 3
    (full, *_) = [one for one in completions if one.finish_reason == "length"]
    logps = await engine.score(TokenSequence(prompt_ids=long, completion_ids=full.token_ids))
    np.testing.assert_allclose(logps, full.logps, atol=1e-4)


async def test_a_prompt_that_leaves_no_room_is_one_unusable_item(engine):
    with pytest.raises(DataError, match=r"prompt_too_long: 128 tokens, expected 1 to 127"):
        await engine.generate(np.full(128, 50, np.int32), sampling(), key="long")
    assert await engine.generate(PROMPTS[0], sampling(), key="short")


async def test_after_a_load_the_new_weights_answer(engine, folders, models):
    report = await engine.load(ref(1), folders[1])
    assert (report.version, engine.policy) == (1, ref(1))
    assert report.size_bytes == (folders[1] / "model.safetensors").stat().st_size
    for prompt, completions in zip(PROMPTS, await generate_all(engine, sampling()), strict=True):
        for one in completions:
            np.testing.assert_allclose(
                one.logps, teacher_forced(models[1], prompt, one.token_ids, sampling()), atol=1e-4
            )
            assert {span.version for span in one.weight_versions} == {1}


@pytest.mark.parametrize("damage", ["truncated", "missing", "other shapes"])
async def test_after_a_failed_load_nothing_answers_until_the_next_start(engine, folders, tmp_path, damage):
    before = await engine.generate(PROMPTS[0], sampling(num=1, temperature=0.0), key="a")
    bad = make_tiny_policy(tmp_path / "bad", tie=damage != "other shapes")
    weights = bad / "model.safetensors"
    if damage == "missing":
        weights.unlink()
    elif damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="bad"):
        await engine.load(ref(1), bad)
    assert engine.policy is None
    with pytest.raises(InfraError):
        await engine.generate(PROMPTS[0], sampling(), key="a")
    with pytest.raises(InfraError):
        await engine.score(TokenSequence(prompt_ids=PROMPTS[0], completion_ids=PROMPTS[1]))
    await engine.start(ref(0), folders[0])
    after = await engine.generate(PROMPTS[0], sampling(num=1, temperature=0.0), key="a")
    assert after[0].token_ids.tolist() == before[0].token_ids.tolist()


async def test_work_that_outlives_its_deadline_is_an_infrastructure_error(engine, monkeypatch):
    monkeypatch.setattr(engine, "_settings", RolloutConfig(max_model_len=128, generate_timeout_s=1e-4))
    with pytest.raises(InfraError, match=r"0\.0001 s"):
        await engine.generate(PROMPTS[0], sampling(num=8, tokens=100), key="slow")
    monkeypatch.undo()
    assert len(await engine.generate(PROMPTS[0], sampling(), key="a")) == 4
