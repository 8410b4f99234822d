"""A LoRA adapter is trained beside a frozen base, which is its reference, too, and is published merged or alone."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig as PeftLoraConfig
from peft import PeftModel, get_peft_model
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from learner.check import check_learner
from learner.config import LearnerConfig
from learner.logps import CompletionLogps, score
from learner.lora import attach, check_quantization, load_adapted
from learner.lora_config import LoraConfig
from learner.model import check_head, load_model
from learner.objectives import OBJECTIVES
from rollout.errors import IntegrityError, UsageError
from rollout.shards import hash_file, hash_policy, read_shard
from rollout.types import TokenSequence
from tests.support.tiny_learner import base_of, learn, one_round, two_steps, worker
from tests.support.tiny_models import random_sequences, tiny_model
from tests.support.tiny_pairs import random_pairs, write_pair_shard
from tests.support.tiny_policy import make_tiny_policy

CPU = torch.device("cpu")
TREES = [(3, [7, 2, 5]), (1, [1, 4]), (9, [6]), (2, [0, 3])]
LORA = {"rank": 4, "alpha": 8}
ALONE = {**LORA, "publish": "adapter"}


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def run_dir(tmp_path, request):
    make_tiny_policy(tmp_path / "policies/v0000", tie=request.param)
    return tmp_path


def moved(model, **settings):
    """The model with an adapter that changes its answers."""
    adapter = attach(model, LoraConfig(**{**LORA, **settings}), base_sha256="b", seed=3)
    torch.manual_seed(5)
    for name, parameter in adapter.parameters.items():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter.data, std=0.3)
    return adapter


def scores(model, sequences, dtype=torch.float32):
    return np.concatenate(score(model, sequences, compute_dtype=dtype, max_tokens=10**6))


def test_only_the_adapter_is_trained_and_the_base_keeps_its_bits(run_dir):
    base = load_model(run_dir / "policies/v0000", device=CPU).state_dict()
    steps, update, learner = one_round(run_dir, random_pairs(10), lora=LORA, num_epochs=8)
    trainer = learner.residence.trainer
    assert {name.rsplit(".", 3)[-3] for name in trainer.parameters} == {"lora_A", "lora_B"}
    assert {parameter.dtype for parameter in trainer.parameters.values()} == {torch.float32}
    held = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in trainer.parameters.values()}
    for name, value in trainer.model.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(value, base[name.replace(".base_layer", "")]), name
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert steps[-1]["loss"] < 0.6
    assert update.metrics["published_share"] == pytest.approx(1.0, abs=1e-3)


def test_the_reference_is_the_same_model_without_the_adapter(run_dir, monkeypatch):
    """No second model is loaded for it, and it is the base to 1e-6, also after the adapter has moved."""
    _, update, learner = one_round(run_dir, random_pairs(10), lora=LORA, num_epochs=4)
    sequences = random_sequences(TREES)
    apart = scores(load_model(run_dir / "policies/v0000", device=CPU), sequences)
    monkeypatch.setattr("learner.residence.load_model", None)
    shard = write_pair_shard(run_dir, random_pairs(6, round_id=1), round_id=1)
    learn(learner, round_id=1, shards=[shard], policy_in=update.policy_out)
    np.testing.assert_allclose(np.concatenate(learner.score(sequences, policy=base_of(run_dir))), apart, atol=1e-6)
    with learner.residence.trainer.adapter.disabled() as model:
        np.testing.assert_allclose(scores(model, sequences), apart, atol=1e-6)
    assert np.abs(scores(learner.residence.trainer.model, sequences) - apart).max() > 1e-2

    pairs = random_pairs(6, round_id=1)
    sides = [(pair.chosen_ids, pair.rejected_ids) for pair in pairs]
    sidecar = run_dir / "rounds/0001/reference/00000"
    kept = read_shard(sidecar.with_suffix(".arrow"), json.loads(sidecar.with_suffix(".json").read_text())["sha256"])
    expected = [
        TokenSequence(prompt_ids=pair.prompt_ids, completion_ids=ids)
        for pair, both in zip(pairs, sides, strict=True)
        for ids in both
    ]
    found = [
        row.values.to_numpy() for one in zip(kept["chosen_logps"], kept["rejected_logps"], strict=True) for row in one
    ]
    monkeypatch.undo()
    base = load_model(run_dir / "policies/v0000", device=CPU)
    np.testing.assert_allclose(np.concatenate(found), scores(base, expected), atol=1e-6)


def test_base_weights_keep_the_dtype_of_the_policy(run_dir):
    settings = LearnerConfig(lora=LORA)
    for compute, policy, kept in (
        (torch.bfloat16, "bfloat16", torch.bfloat16),
        (torch.float32, "bfloat16", torch.float32),
        (torch.bfloat16, "float16", torch.float32),
    ):
        adapter = load_adapted(
            run_dir / "policies/v0000", settings, base_sha256="b", policy_dtype=policy, compute_dtype=compute,
            device=CPU, seed=0,
        )  # fmt: skip
        assert {p.dtype for n, p in adapter.model.named_parameters() if n not in adapter.parameters} == {kept}
        assert {p.dtype for p in adapter.parameters.values()} == {torch.float32}
    check_head(adapter.model)


def test_a_round_in_bfloat16_is_packed_and_learns(run_dir):
    steps, _, learner = one_round(run_dir, random_pairs(10), lora=LORA, num_epochs=8, compute_dtype="bfloat16")
    learner.policy_dtype = "bfloat16"
    learner.configure(learner.settings)
    again, _ = learn(
        learner,
        round_id=0,
        shards=[write_pair_shard(run_dir, random_pairs(10))],
        policy_in=base_of(run_dir),
    )
    assert learner.residence.trainer.completion_logps.is_packed
    assert learner.residence.trainer.model.dtype == torch.bfloat16
    assert [step["loss"] for step in again] == pytest.approx([step["loss"] for step in steps], abs=0.05)
    assert again[-1]["loss"] < 0.6


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "opt", "phi"])
def test_packed_rows_give_what_padded_ones_give_through_an_adapter(family):
    adapter, sequences, found = moved(tiny_model(family)), random_sequences(TREES), []
    for is_packed in (True, False):
        logps_of = CompletionLogps(adapter.model)
        assert logps_of.is_packed
        logps_of.is_packed = is_packed
        adapter.model.zero_grad()
        logps_SC, mask_SC, _ = logps_of(sequences)
        (logps_SC.square().sum() / mask_SC.sum()).backward()
        found.append((logps_SC.detach(), [p.grad.clone() for p in adapter.parameters.values()]))
    torch.testing.assert_close(found[0][0], found[1][0], atol=1e-5, rtol=0)
    for got, expected in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5 * max(1.0, expected.abs().max().item()), rtol=0)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_the_adapter_adds_is_what_peft_merges(family):
    """gpt2 keeps its matrices the other way round."""
    adapter, sequences = moved(tiny_model(family)), random_sequences(TREES)
    plain, theirs = tiny_model(family), tiny_model(family)
    for name, weight in plain.named_parameters():
        if adapter.changes(name):
            weight.data.add_(adapter.delta(name, adapter.parameters))
    config = PeftLoraConfig(r=4, lora_alpha=8, target_modules=list(adapter.shape.targets), task_type="CAUSAL_LM")
    wrapped = get_peft_model(theirs, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(adapter.parameters[name.removeprefix("base_model.model.")])
    merged = wrapped.merge_and_unload()
    for (name, ours), other in zip(plain.named_parameters(), merged.parameters(), strict=True):
        torch.testing.assert_close(ours, other, atol=1e-6, rtol=0, msg=name)
    np.testing.assert_allclose(scores(plain, sequences), scores(adapter.model, sequences), atol=1e-5)


def test_both_publications_are_the_same_policy(run_dir):
    shard, sequences, results = write_pair_shard(run_dir, random_pairs(10)), random_sequences(TREES), {}
    for publish in ("merged", "adapter"):
        learner = worker(run_dir, lora={**LORA, "publish": publish}, num_epochs=4)
        _, update = learn(learner, round_id=0, shards=[shard], policy_in=base_of(run_dir))
        folder = run_dir / update.policy_out.path
        assert update.policy_out.sha256 == hash_policy(folder)
        results[publish] = (update, scores(load_model(folder, device=CPU), sequences))
        np.testing.assert_allclose(results[publish][1], scores(learner.residence.trainer.model, sequences), atol=1e-5)
    assert results["merged"][0].policy_out.kind == "full"
    assert results["adapter"][0].policy_out.kind == "adapter"
    assert results["adapter"][0].metrics["published_share"] == 1.0
    np.testing.assert_allclose(results["merged"][1], results["adapter"][1], atol=1e-5)
    base = scores(load_model(run_dir / "policies/v0000", device=CPU), sequences)
    assert np.abs(base - results["merged"][1]).max() > 1e-2


def test_an_adapter_alone_is_what_peft_and_transformers_open(run_dir):
    _, update, learner = one_round(run_dir, random_pairs(10), lora=ALONE, num_epochs=4)
    folder, sequences = run_dir / update.policy_out.path, random_sequences(TREES)
    assert sorted(path.name for path in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors", "base.json",
    ]  # fmt: skip
    ours = scores(learner.residence.trainer.model, sequences)
    base = AutoModelForCausalLM.from_pretrained(run_dir / "policies/v0000", dtype=torch.float32)
    opened = PeftModel.from_pretrained(base, folder)
    assert scores(opened.get_base_model(), sequences) == pytest.approx(ours, abs=1e-6)
    other = AutoModelForCausalLM.from_pretrained(run_dir / "policies/v0000", dtype=torch.float32)
    other.load_adapter(str(folder))
    assert scores(other, sequences) == pytest.approx(ours, abs=1e-6)
    before = update.policy_out.sha256
    (folder / "base.json").write_text((folder / "base.json").read_text().replace('"sha256": "', '"sha256": "0'))
    assert hash_policy(folder) != before, "the base is part of an adapter's identity"


def test_the_share_of_a_merged_update_is_that_of_its_own_round(run_dir):
    """bfloat16 eats small updates of a merged policy, in every round; float32 carries them."""
    model = load_model(run_dir / "policies/v0000", device=CPU, dtype=torch.bfloat16)
    model.save_pretrained(run_dir / "policies/v0000")
    for dtype, low, high in (("float32", 0.99, 1.01), ("bfloat16", -0.5, 0.6)):
        learner, policy = worker(run_dir, lora=LORA, learning_rate=1e-4, publish_dtype=dtype), base_of(run_dir)
        for round_id in (0, 1):
            shard = write_pair_shard(run_dir, random_pairs(8, round_id=round_id), round_id=round_id)
            _, update = learn(learner, round_id=round_id, shards=[shard], policy_in=policy)
            policy = update.policy_out
            assert low < update.metrics["published_share"] < high, (dtype, round_id)


def test_going_on_with_another_base_or_shape_is_refused(run_dir):
    _, update, _ = one_round(run_dir, random_pairs(4), lora=LORA)
    for lora, said in (
        (None, "all weights"),
        ({**LORA, "rank": 8}, "rank 8"),
        ({**LORA, "targets": ["q_proj"]}, "tar"),
    ):
        with pytest.raises(IntegrityError, match=f"expected one of .*{said}"):
            worker(run_dir, lora=lora).prepare(update.policy_out)


def test_publication_may_change_between_rounds(run_dir):
    _, update, learner = one_round(run_dir, random_pairs(8), lora=ALONE)
    sequences = random_sequences(TREES)
    for round_id, publish in ((1, "merged"), (2, "adapter")):
        learner.configure(learner.settings.model_copy(update={"lora": LoraConfig(**{**LORA, "publish": publish})}))
        shard = write_pair_shard(run_dir, random_pairs(8, round_id=round_id), round_id=round_id)
        _, update = learn(learner, round_id=round_id, shards=[shard], policy_in=update.policy_out)
        assert update.metrics["published_share"] == pytest.approx(1.0, abs=1e-3)
        loaded = load_model(run_dir / update.policy_out.path, device=CPU)
        assert scores(loaded, sequences) == pytest.approx(scores(learner.residence.trainer.model, sequences), abs=1e-5)


@pytest.mark.parametrize("loss", [name for name in OBJECTIVES if name != "exo_pair"])
def test_every_objective_trains_an_adapter(tmp_path, loss):
    make_tiny_policy(tmp_path / "policies/v0000")
    reference = "base" if OBJECTIVES[loss].needs_reference else "none"
    for values in two_steps(tmp_path, {"loss": loss, "lora": LORA, "reference": reference}):
        assert np.isfinite(values["loss"])
        assert values["grad_norm"] > 0


@pytest.mark.parametrize(
    ("lora", "said"),
    [
        ({"rank": 0}, "greater than or equal to 1"),
        ({"rank": 1024}, "less than or equal to 512"),
        ({"dropout": 0.1}, "expected 0"),
        ({"targets": []}, "list of different names"),
        ({"targets": ["q_proj", "q_proj"]}, "list of different names"),
        ({"modules_to_save": ["lm_head"]}, "Extra inputs"),
        ({"quantize": "int8"}, "nf4"),
    ],
)
def test_settings_that_cannot_work_are_refused(lora, said):
    with pytest.raises(ValidationError, match=said):
        LearnerConfig(lora=lora)


def test_an_adapter_alone_is_float32():
    for name, value in (("publish_dtype", "bfloat16"), ("publish_rounding", "stochastic")):
        with pytest.raises(ValidationError, match=f"{name} has no effect with lora.publish: adapter"):
            LearnerConfig(lora=ALONE, **{name: value})


@pytest.mark.parametrize("target", ["q_prj", "lm_head", "embed_tokens"])
def test_targets_that_take_no_adapter_are_refused_before_and_at_loading(run_dir, target):
    settings = LearnerConfig(lora={"targets": ["q_proj", target]})
    model = load_model(run_dir / "policies/v0000", device=CPU)
    for refusing in (
        lambda: check_learner(settings, run_dir / "policies/v0000"),
        lambda: attach(model, settings.lora, base_sha256="b", seed=0),
    ):
        with pytest.raises(
            UsageError, match=rf"targets: {target} is no linear layer .* down_proj, gate_proj, k_proj"
        ) as e:
            refusing()
        assert "\n" not in str(e.value)
    check_learner(LearnerConfig(lora={"targets": ["q_proj", "self_attn.v_proj"]}), run_dir / "policies/v0000")
    check_learner(LearnerConfig(), run_dir / "nothing")


def test_four_bits_without_bitsandbytes_are_refused_before_and_at_loading(run_dir, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    settings = LearnerConfig(lora={"quantize": "nf4"})
    with pytest.raises(UsageError, match="nf4 needs bitsandbytes, which is not installed"):
        check_learner(settings, run_dir / "policies/v0000")
    with pytest.raises(UsageError, match="nf4 needs bitsandbytes, which is not installed"):
        check_quantization(CPU)


def test_four_bits_on_hardware_without_them_are_refused(monkeypatch):
    class Broken:
        @staticmethod
        def quantize_4bit(*args, **kwargs):
            raise RuntimeError("no kernel\nfor this device")

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("importlib.import_module", lambda name: Broken)
    with pytest.raises(UsageError, match="nf4 fails on cpu here: no kernel; leave it out"):
        check_quantization(CPU)


def test_an_adapter_learns_beside_a_base_in_four_bits(run_dir):
    pytest.importorskip("bitsandbytes")
    steps, update, learner = one_round(run_dir, random_pairs(10), lora={**LORA, "quantize": "nf4"}, num_epochs=8)
    layer = learner.residence.trainer.model.model.layers[0].self_attn.q_proj.base_layer
    assert type(layer).__name__ == "Linear4bit"
    assert layer.weight.dtype == torch.uint8
    assert steps[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert steps[-1]["loss"] < 0.6
    assert update.metrics["published_share"] == pytest.approx(1.0, abs=1e-3)
    published = load_model(run_dir / update.policy_out.path, device=CPU)
    adapter, base = learner.residence.trainer.adapter, load_model(run_dir / "policies/v0000", device=CPU)
    for name, weight in published.named_parameters():
        expected = base.get_parameter(name).data
        if adapter.changes(name):
            expected = expected + adapter.delta(name, adapter.parameters)
        torch.testing.assert_close(weight.data, expected, atol=1e-6, rtol=0, msg=name)
    resumed = worker(run_dir, lora={**LORA, "quantize": "nf4"}, num_epochs=8)
    shard = write_pair_shard(run_dir, random_pairs(6, round_id=1), round_id=1)
    found = []
    for each in (learner, resumed):
        more, _ = learn(each, round_id=1, shards=[shard], policy_in=update.policy_out)
        found.append(([values["loss"] for values in more], hash_file(run_dir / "learner/0001/masters.safetensors")))
    assert found[0] == found[1]
