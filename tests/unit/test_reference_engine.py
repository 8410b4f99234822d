"""The engine that others are held against must itself be right: probabilities, stops, seeds, lengths."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from rollout.config import RolloutConfig
from rollout.engine import context_tokens
from rollout.errors import DataError, InfraError, IntegrityError
from rollout.reference_engine import ReferenceEngine, _sampling_logps
from rollout.types import PolicyRef, Sampling, TokenSequence
from tests.support.tiny_policy import make_tiny_policy

PROMPT = np.array([1, 3, 40, 41, 2, 4], np.int32)
SAMPLING = Sampling(num_completions=3, temperature=0.7, top_p=0.9, max_new_tokens=12)


def ref(version: int) -> PolicyRef:
    return PolicyRef(version=version, path=f"policies/v{version:04d}", sha256=f"{version:064d}")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("policies")
    return [make_tiny_policy(root / str(seed), seed=seed) for seed in range(2)]


async def started(folder, *, stop_ids=(2,), **settings):
    engine = ReferenceEngine(settings=RolloutConfig(**settings), stop_ids=stop_ids, seed=5)
    await engine.start(ref(0), folder)
    return engine


def same(left, right) -> bool:
    return all(
        np.array_equal(a.token_ids, b.token_ids) and a.logps.tobytes() == b.logps.tobytes() and a.seed == b.seed
        for a, b in zip(left, right, strict=True)
    )


async def test_a_key_gives_the_same_bits_in_any_order_and_another_key_others(folders):
    first, second = await started(folders[0]), await started(folders[0])
    before = await first.generate(PROMPT, SAMPLING, key="a")
    await second.generate(PROMPT, SAMPLING, key="b")
    assert same(before, await second.generate(PROMPT, SAMPLING, key="a"))
    assert not same(before, await second.generate(PROMPT, SAMPLING, key="b"))
    assert len({one.token_ids.tobytes() for one in before}) == 3


async def test_log_probabilities_are_those_of_the_full_forward_pass(folders):
    engine = await started(folders[0])
    sampling = Sampling(num_completions=2, temperature=1.0, top_p=1.0, max_new_tokens=20)
    model = AutoModelForCausalLM.from_pretrained(folders[0], dtype=torch.float32)
    for one in await engine.generate(PROMPT, sampling, key="a"):
        ids = torch.from_numpy(np.concatenate([PROMPT, one.token_ids]).astype(np.int64))[None]
        with torch.no_grad():
            logps = model(input_ids=ids).logits.log_softmax(-1)[0, len(PROMPT) - 1 : -1]
        expected = logps[range(len(one.token_ids)), one.token_ids]
        np.testing.assert_allclose(one.logps, expected, atol=1e-4)
        scored = await engine.score(TokenSequence(prompt_ids=PROMPT, completion_ids=one.token_ids))
        np.testing.assert_allclose(scored, expected, atol=1e-5)
        assert scored.dtype == np.float32


def test_the_sampling_distribution_has_temperature_first_and_then_the_nucleus():
    logits = torch.tensor([0.1, 0.6, 0.25, 0.05]).log()
    plain = Sampling(num_completions=1, temperature=1.0, top_p=0.8, max_new_tokens=1)
    # 0.6 alone is not 0.8 of the mass, 0.6 + 0.25 is: two ids stay, renormalised.
    np.testing.assert_allclose(_sampling_logps(logits, plain).exp(), [0, 0.6 / 0.85, 0.25 / 0.85, 0], atol=1e-6)
    cold = Sampling(num_completions=1, temperature=0.5, top_p=1.0, max_new_tokens=1)
    squares = np.array([0.1, 0.6, 0.25, 0.05]) ** 2
    np.testing.assert_allclose(_sampling_logps(logits, cold).exp(), squares / squares.sum(), atol=1e-6)


async def test_the_sampled_stop_id_stays_and_only_then_the_reason_is_stop(folders):
    engine = await started(folders[0], stop_ids=range(0, 300, 4))
    sampling = Sampling(num_completions=16, temperature=1.0, top_p=1.0, max_new_tokens=4)
    completions = await engine.generate(PROMPT, sampling, key="a")
    assert {one.finish_reason for one in completions} == {"stop", "length"}
    for one in completions:
        stops = [place for place, token in enumerate(one.token_ids) if token % 4 == 0]
        assert stops == ([len(one.token_ids) - 1] if one.finish_reason == "stop" else [])
        assert one.finish_reason == "stop" or len(one.token_ids) == 4


async def test_lengths_end_where_the_context_does(folders):
    assert context_tokens(folders[0], None) == 511
    assert context_tokens(folders[0], 4096) == 511
    engine = await started(folders[0], stop_ids=(), max_model_len=10)
    completions = await engine.generate(PROMPT, SAMPLING, key="a")
    assert {(len(one.token_ids), one.finish_reason) for one in completions} == {(4, "length")}
    with pytest.raises(DataError, match="prompt_too_long: 10 tokens, expected 1 to 9"):
        await engine.generate(np.ones(10, np.int32), SAMPLING, key="a")


async def test_other_weights_answer_after_a_load_and_none_after_a_failed_one(folders, tmp_path):
    engine = await started(folders[0])
    old = await engine.generate(PROMPT, SAMPLING, key="a")
    report = await engine.load(ref(1), folders[1])
    assert (report.version, report.size_bytes > 100_000, engine.policy) == (1, True, ref(1))
    new = await engine.generate(PROMPT, SAMPLING, key="a")
    assert not same(old, new)
    assert {span.version for one in new for span in one.weight_versions} == {1}
    untied = make_tiny_policy(tmp_path / "untied", tie=False)
    with pytest.raises(IntegrityError, match=r"1 tensors differ, for instance lm_head.weight"):
        await engine.load(ref(2), untied)
    assert engine.policy is None
    with pytest.raises(InfraError, match="holds no policy"):
        await engine.generate(PROMPT, SAMPLING, key="a")
    await engine.start(ref(0), folders[0])
    assert same(old, await engine.generate(PROMPT, SAMPLING, key="a"))


async def test_a_completion_that_outlives_the_deadline_says_where_it_was(folders):
    engine = await started(folders[0], stop_ids=(), generate_timeout_s=1e-6)
    with pytest.raises(InfraError, match=r"token 1 of at most 12 when rollout.generate_timeout_s = 1e-06 s"):
        await engine.generate(PROMPT, SAMPLING, key="a")
