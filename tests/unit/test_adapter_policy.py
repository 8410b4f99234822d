"""An adapter policy is its own files and the very base that it was trained on, wherever it is loaded."""

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from orchestrator.config import RunConfig
from rollout.adapter import adapter_rank, base_folder
from rollout.build import build_worker
from rollout.config import RolloutConfig
from rollout.errors import IntegrityError, UsageError
from rollout.reference_engine import ReferenceEngine
from rollout.shards import hash_policy
from rollout.types import PolicyRef, Sampling, TokenSequence
from tests.support.tiny_adapter import make_tiny_adapter
from tests.support.tiny_config import tiny_config
from tests.support.tiny_policy import make_tiny_policy

PROMPT = np.array([1, 3, 40, 41, 2, 4], np.int32)
ANSWER = np.array([50, 51, 52, 7], np.int32)
SAMPLING = Sampling(num_completions=1, temperature=0.0, top_p=1.0, max_new_tokens=12)


@pytest.fixture
def run_dir(tmp_path):
    base = make_tiny_policy(tmp_path / "policies/v0000")
    for version in (1, 2):
        make_tiny_adapter(tmp_path / f"policies/v000{version}", base, seed=version)
    return tmp_path


def ref(run_dir, version) -> PolicyRef:
    path = f"policies/v000{version}"
    kind = "adapter" if version else "full"
    return PolicyRef(version=version, path=path, sha256=hash_policy(run_dir / path), kind=kind)


def expected_logps(run_dir, version):
    model = AutoModelForCausalLM.from_pretrained(run_dir / "policies/v0000", dtype=torch.float32)
    if version:
        model = PeftModel.from_pretrained(model, run_dir / f"policies/v000{version}").merge_and_unload()
    ids = torch.from_numpy(np.concatenate([PROMPT, ANSWER]).astype(np.int64))[None]
    with torch.no_grad():
        logps = model(input_ids=ids).logits.log_softmax(-1)[0, len(PROMPT) - 1 : -1]
    return logps[range(len(ANSWER)), ANSWER]


async def test_the_reference_engine_answers_under_base_and_adapters(run_dir):
    engine, sequence = ReferenceEngine(stop_ids=(2,)), TokenSequence(prompt_ids=PROMPT, completion_ids=ANSWER)
    await engine.start(ref(run_dir, 1), run_dir / "policies/v0001")
    for version in (1, 2, 0, 1):
        if version != engine.policy.version:
            report = await engine.load(ref(run_dir, version), run_dir / f"policies/v000{version}")
            assert (report.size_bytes < 100_000) is (version > 0)
        np.testing.assert_allclose(await engine.score(sequence), expected_logps(run_dir, version), atol=1e-4)
        (completion,) = await engine.generate(PROMPT, SAMPLING, key="")
        assert {span.version for span in completion.weight_versions} == {version}


def joiner(run_dir, version):
    """The worker of an engine that begins with this policy, as an actor makes it."""
    settings = RolloutConfig(engine="transformers", max_new_tokens=8)
    return build_worker(
        run_dir / f"policies/v000{version}", index=0, settings=settings, run_dir=run_dir, dtype="float32", seed=1
    )


async def test_an_engine_that_joins_late_finds_tokenizer_context_and_base(run_dir):
    workers = [joiner(run_dir, version) for version in (0, 2)]
    assert workers[0]._encoder.signature == workers[1]._encoder.signature
    await workers[1].start(ref(run_dir, 2))
    (logps,) = await workers[1].score([TokenSequence(prompt_ids=PROMPT, completion_ids=ANSWER)])
    np.testing.assert_allclose(logps, expected_logps(run_dir, 2), atol=1e-4)


async def test_another_base_is_refused_and_the_base_is_read_once(run_dir, monkeypatch):
    hashed = []
    real = hash_policy
    monkeypatch.setattr("rollout.worker.hash_policy", lambda folder: hashed.append(folder.name) or real(folder))
    worker, policies = joiner(run_dir, 1), [ref(run_dir, version) for version in (0, 1, 2)]
    await worker.start(policies[1])
    await worker.load(policies[2])
    assert hashed == ["v0001", "v0000", "v0002"]
    make_tiny_policy(run_dir / "policies/v0000", seed=5)
    with pytest.raises(IntegrityError, match=r"v0000 has sha256 .* but the adapter of policy v2 belongs to base"):
        await joiner(run_dir, 2).start(policies[2])


def test_an_adapters_hash_covers_its_matrices_its_settings_and_its_base(run_dir):
    folder, seen = run_dir / "policies/v0001", set()
    for name in ("", "adapter_model.safetensors", "adapter_config.json", "base.json"):
        if name:
            (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        seen.add(hash_policy(folder))
    assert len(seen) == 4
    assert base_folder(folder) == run_dir / "policies/v0000"


@pytest.mark.parametrize("damage", ["truncated", "no settings", "other rank"])
def test_a_broken_adapter_is_refused_by_name(run_dir, damage):
    folder = run_dir / "policies/v0001"
    weights, config = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    assert adapter_rank(folder) == 4
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-10])
    elif damage == "no settings":
        config.unlink()
    else:
        config.write_text(config.read_text().replace('"r": 4', '"r": 8'))
    with pytest.raises(IntegrityError, match="v0001"):
        adapter_rank(folder)


def test_engines_have_room_for_what_the_learner_publishes(run_dir):
    def config(**changes) -> RunConfig:
        return tiny_config(run_dir / "policies/v0000", **changes)

    assert config().engines.max_lora_rank is None
    assert config(learner__lora={"rank": 4}).engines.max_lora_rank is None
    assert config(learner__lora={"rank": 4, "publish": "adapter"}).engines.max_lora_rank == 4
    lora = {"rank": 4, "publish": "adapter"}
    assert config(learner__lora=lora, rollout__max_lora_rank=32).engines.max_lora_rank == 32
    with pytest.raises(UsageError, match=r"rollout\.max_lora_rank is 2, but learner\.lora\.rank 4"):
        config(learner__lora=lora, rollout__max_lora_rank=2)
