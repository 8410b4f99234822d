"""New weights in a running vLLM engine: as good as a fresh engine's, for whole policies, tied and untied, and for
adapters of one base.
"""

import asyncio
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from learner.model import load_model
from rollout.config import RolloutConfig
from rollout.errors import InfraError, IntegrityError
from rollout.shards import base_folder, write_json
from rollout.shared_weights import WeightOffer, ask_for_offers, offered_weights
from rollout.types import PolicyRef, Sampling, TokenSequence
from rollout.vllm_engine import VllmEngine
from tests.support.tiny_adapter import make_tiny_adapter
from tests.support.tiny_policy import make_tiny_policy

pytestmark = pytest.mark.integration

VERSIONS = [0, 1, 2, 3]
# The last is longer than a block of the KV cache, so that it is found there when it comes again.
PROMPTS = [np.array([1, 3, first, first + 1, 2, 4], np.int32) for first in range(40, 52)]
PROMPTS.append(np.arange(300, dtype=np.int32) % 200 + 6)
GREEDY = Sampling(num_completions=1, temperature=0.0, top_p=1.0, max_new_tokens=32)
TOLERANCE = 1e-4


RANK = 4


def ref(version: int) -> PolicyRef:
    return PolicyRef(version=version, path=f"policies/v{version:04d}", sha256=f"{version:064d}")


def make_engine(**settings) -> VllmEngine:
    return VllmEngine(settings=RolloutConfig(**settings), stop_ids=(2,), dtype="float32", seed=7)


@pytest.fixture(scope="module", params=["tied", "untied", "adapters"])
def folders(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("policies")
    if request.param == "adapters":
        base = make_tiny_policy(root / "0", seed=0)
        return [base, *(make_tiny_adapter(root / str(v), base, seed=v, rank=RANK) for v in VERSIONS[1:])]
    return [make_tiny_policy(root / str(v), seed=v, tie=request.param == "tied") for v in VERSIONS]


@pytest.fixture(scope="module")
def settings(folders):
    """With room for adapters where there are any, as the orchestrator makes it."""
    return {"max_lora_rank": RANK} if base_folder(folders[1]) != folders[1] else {}


@pytest.fixture(scope="module")
def models(folders):
    """What transformers makes of the policies; adapters merged by peft."""
    found = []
    for folder in folders:
        model = AutoModelForCausalLM.from_pretrained(base_folder(folder), dtype=torch.float32)
        is_adapter = base_folder(folder) != folder
        found.append(PeftModel.from_pretrained(model, folder).merge_and_unload() if is_adapter else model)
    return found


async def answers(engine: VllmEngine):
    groups = await asyncio.gather(*[engine.generate(prompt, GREEDY, key="") for prompt in PROMPTS])
    return [group[0] for group in groups]


def teacher_forced(model, prompt, token_ids):
    """Log-probabilities of the tokens, and the tokens that greedy search would have taken in their places."""
    ids = torch.from_numpy(np.concatenate([prompt, token_ids]).astype(np.int64))[None]
    with torch.no_grad():
        logps = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1).numpy()
    return logps[np.arange(len(token_ids)), token_ids], logps.argmax(-1)


async def test_after_every_update_the_engine_is_as_good_as_a_fresh_one(folders, models, settings, tmp_path):
    fresh = {}
    for version in VERSIONS:
        engine = make_engine(**settings)
        await engine.start(ref(version), folders[version])
        fresh[version] = await answers(engine)
        await engine.close()
    engine = make_engine(**settings)
    await engine.start(ref(0), folders[0])
    offer = WeightOffer(tmp_path)
    ask_for_offers(tmp_path)
    for version, road in [(0, "folder"), (1, "folder"), (2, "shared"), (3, "shared"), (1, "folder"), (0, "shared")]:
        if engine.policy != ref(version):
            if road == "shared":
                offer.make(ref(version), folders[version])
            with offered_weights(tmp_path, ref(version), folders[version]) as weights:
                report = await engine.load(ref(version), folders[version], None if settings else weights)
            assert report.road == ("adapter" if settings else {"shared": "shared_memory"}.get(road, road))
        for prompt, ours, theirs in zip(PROMPTS, await answers(engine), fresh[version], strict=True):
            assert ours.token_ids.tolist() == theirs.token_ids.tolist()
            np.testing.assert_allclose(ours.logps, theirs.logps, atol=TOLERANCE)
            logps, best = teacher_forced(models[version], prompt, ours.token_ids)
            assert ours.token_ids.tolist() == best.tolist()
            np.testing.assert_allclose(ours.logps, logps, atol=TOLERANCE)
            scored = await engine.score(TokenSequence(prompt_ids=prompt, completion_ids=ours.token_ids))
            np.testing.assert_allclose(scored, logps, atol=TOLERANCE)
    assert len({tuple(one.token_ids.tolist()) for group in fresh.values() for one in group}) > len(PROMPTS)
    await engine.close()


async def test_running_completions_go_on_under_the_new_weights_and_say_where_they_changed(folders, models, settings):
    engine = VllmEngine(settings=RolloutConfig(**settings), stop_ids=(), dtype="float32", seed=7)
    await engine.start(ref(0), folders[0])
    how = Sampling(num_completions=1, temperature=0.0, top_p=1.0, max_new_tokens=500)
    prompts = PROMPTS[:-1]
    running = [asyncio.ensure_future(engine.generate(prompt, how, key="")) for prompt in prompts]
    for version in (1, 2):
        await asyncio.sleep(0.2)
        await engine.load(ref(version), folders[version])
    num_spans = set()
    for prompt, (one,) in zip(prompts, await asyncio.gather(*running), strict=True):
        spans = one.weight_versions
        num_spans.add(len(spans))
        assert [span.version for span in spans] == [0, 1, 2][: len(spans)]
        assert [span.start for span in spans] == [0, *[span.end for span in spans[:-1]]]
        assert spans[-1].end == len(one.token_ids) == 500
        for span in spans:
            logps, best = teacher_forced(models[span.version], prompt, one.token_ids)
            place = slice(span.start, span.end)
            assert one.token_ids[place].tolist() == best[place].tolist()
            np.testing.assert_allclose(one.logps[place], logps[place], atol=TOLERANCE)
    assert num_spans == {3}
    await engine.close()


async def test_scores_over_which_the_weights_change_are_wholly_of_one_policy(folders, models, settings):
    engine = make_engine(**settings)
    await engine.start(ref(0), folders[0])

    def in_small_chunks(vllm_engine):
        # As with prompts longer than a step takes: a score then needs several, and the load falls between two of them.
        vllm_engine.engine_core.engine_core.scheduler.max_num_scheduled_tokens = 64

    await asyncio.wrap_future(engine._stepper.call(in_small_chunks))
    long = TokenSequence(prompt_ids=PROMPTS[0], completion_ids=np.arange(490, dtype=np.int32) % 250 + 6)
    waiting = [asyncio.ensure_future(engine.score(long)) for _ in range(8)]
    await asyncio.sleep(0.02)
    await engine.load(ref(1), folders[1])
    expected = [teacher_forced(model, long.prompt_ids, long.completion_ids)[0] for model in models[:2]]
    for logps in await asyncio.gather(*waiting):
        errors = [np.abs(logps - one).max() for one in expected]
        assert min(errors) < TOLERANCE
    assert np.abs(logps - expected[1]).max() < TOLERANCE
    await engine.close()


async def test_a_thread_that_dies_fails_what_is_waiting_and_start_builds_the_engine_anew(folders, settings):
    engine = make_engine(**settings)
    await engine.start(ref(0), folders[0])
    before = await answers(engine)

    def fail(vllm_engine):
        raise MemoryError("no blocks left")

    how = Sampling(num_completions=4, temperature=1.0, top_p=1.0, max_new_tokens=500)
    waiting = asyncio.ensure_future(engine.generate(PROMPTS[0], how, key=""))
    await asyncio.sleep(0.05)
    engine._stepper.call(fail)
    with pytest.raises(InfraError, match="MemoryError: no blocks left"):
        await waiting
    assert engine.policy is None
    with pytest.raises(InfraError, match=r"unusable until it is started again: .*no blocks left"):
        await engine.load(ref(1), folders[1])
    await engine.start(ref(0), folders[0])
    assert [one.token_ids.tolist() for one in await answers(engine)] == [one.token_ids.tolist() for one in before]
    await engine.close()


async def test_an_engine_without_room_for_an_adapter_makes_it_and_lets_it_go(folders, models, settings, tmp_path):
    """From whole policies to adapters and back: the engine is built anew, and answers right after each."""
    base = make_tiny_policy(tmp_path / "whole", seed=9)
    adapters = [make_tiny_adapter(tmp_path / str(v), base, seed=v, rank=9 * v) for v in (1, 2)]
    if settings:
        pytest.skip("starts without room")
    engine = make_engine()
    await engine.start(ref(0), folders[0])
    for version, folder in enumerate([*adapters, base, folders[1]], start=1):
        await engine.load(ref(version), folder)
        model = load_model(folder, device=torch.device("cpu"))
        for prompt, ours in zip(PROMPTS[:3], await answers(engine), strict=False):
            logps, best = teacher_forced(model, prompt, ours.token_ids)
            assert ours.token_ids.tolist() == best.tolist()
            np.testing.assert_allclose(ours.logps, logps, atol=TOLERANCE)
            assert {span.version for span in ours.weight_versions} == {version}
    await engine.close()


async def test_a_broken_adapter_answers_nothing(folders, settings, tmp_path):
    if not settings:
        pytest.skip("about adapters")
    broken = tmp_path / "broken"
    shutil.copytree(folders[1], broken)
    write_json(broken / "base.json", {"path": str(folders[0]), "sha256": ""})
    weights = broken / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    engine = make_engine(**settings)
    await engine.start(ref(0), folders[0])
    with pytest.raises(IntegrityError, match="broken is not a whole adapter"):
        await engine.load(ref(1), broken)
    assert engine.policy is None
    await engine.start(ref(1), folders[1])
    assert await answers(engine)
    await engine.close()
