"""Bradley-Terry by hand, and a reward model that is fitted, measured, written and judged with."""

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from judge.reward.config import RewardModelBackend
from judge.reward.judge import build_reward_model
from learner import reward_folder
from learner.dialogues import DialogueEncoder, EncodedPair, encode_comparisons
from learner.errors import DivergedError
from learner.reward_config import RewardModelConfig
from learner.reward_folder import open_start
from learner.reward_model import (
    REPORT,
    bradley_terry_loss,
    fit_reward_model,
    reward_rows,
    rewards,
    split_by_prompt,
    train_steps,
)
from learner.reward_report import best_temperature, expected_calibration_error, measure_held_out
from learner.reward_rows import load_comparisons
from rollout.errors import UsageError
from rollout.shards import hash_policy
from tests.support.tiny_groups import make_group
from tests.support.tiny_policy import make_tiny_policy

WORDS = ["red", "green", "blue", "one", "two", "three", "up", "down"]
SETTINGS = RewardModelConfig(learning_rate=3e-3, batch_pairs=8, num_epochs=4, held_out_share=0.25)


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("trainer") / "policy")


@pytest.fixture(scope="module")
def preferences(tmp_path_factory):
    """The answer with "good" in it is chosen; two pairs of each prompt, and a tie."""
    path = tmp_path_factory.mktemp("trainer") / "pairs.jsonl"
    rows = []
    for i in range(48):
        words = [WORDS[(i * k + k) % 8] for k in range(1, 4)]
        rows.append({"prompt": f"say {i // 2}", "chosen": f"{words[0]} good {words[1]}", "rejected": f"{words[0]} bad"})
    tie = {"prompt": "say", "chosen": "a", "rejected": "b", "outcome": "tie"}
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, tie]))
    return path


def fit(sources, policy, out, settings):
    steps = fit_reward_model([str(source) for source in sources], model=policy, out=out, settings=settings)
    seen = []
    while True:
        try:
            seen.append(next(steps))
        except StopIteration as done:
            return seen, done.value


@pytest.fixture(scope="module")
def fitted(policy, preferences, tmp_path_factory):
    out = tmp_path_factory.mktemp("trainer") / "out"
    steps, report = fit([preferences], policy, out, SETTINGS)
    return out, steps, report


def test_the_loss_by_hand():
    chosen, rejected = torch.tensor([1.0, 0.0, -2.0]), torch.tensor([0.0, 0.0, 1.0])
    plain = bradley_terry_loss(chosen, rejected)
    assert plain.tolist() == pytest.approx([0.313262, 0.693147, 3.048587], abs=1e-6)  # log(1 + exp(-d)), d = 1, 0, -3
    centred = bradley_terry_loss(chosen, rejected, centre_coefficient=0.01)
    assert (centred - plain).tolist() == pytest.approx([0.01, 0.0, 0.01], abs=1e-7)
    assert bradley_terry_loss(torch.tensor([1e4]), torch.tensor([-1e4])).item() == 0.0
    assert bradley_terry_loss(torch.tensor([-1e4]), torch.tensor([1e4])).item() == pytest.approx(2e4)


def test_the_gradient_by_hand_and_by_differences():
    chosen = torch.tensor([0.3, -1.2], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.9, 0.4], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda c, r: bradley_terry_loss(c, r, centre_coefficient=0.1), (chosen, rejected))
    bradley_terry_loss(chosen, rejected, centre_coefficient=0.1).sum().backward()
    by_hand = -torch.sigmoid(rejected - chosen) + 0.2 * (chosen + rejected)
    assert torch.allclose(chosen.grad, by_hand)


def test_an_untrained_head_is_as_unsure_as_can_be_and_follows_from_the_seed(policy):
    start = open_start(policy, SETTINGS)
    assert start.model.score.weight.std().item() == pytest.approx(1 / math.sqrt(33), rel=0.5)
    same, other = (open_start(policy, SETTINGS.model_copy(update={"seed": seed})) for seed in (17, 18))
    assert torch.equal(start.model.score.weight, same.model.score.weight)
    assert not torch.equal(start.model.score.weight, other.model.score.weight)


def test_a_reward_does_not_depend_on_its_batch_and_a_batch_not_on_its_passes(policy, preferences):
    start = open_start(policy, SETTINGS)
    encoder = DialogueEncoder(start.tokenizer, max_length=None)
    pairs, _ = encode_comparisons(load_comparisons([str(preferences)])[0], encoder)
    rows = [pairs[0].chosen, np.tile(pairs[0].chosen, 20), pairs[1].rejected]
    with torch.no_grad():
        together = reward_rows(start.model, rows, torch.float32)
        alone = torch.cat([reward_rows(start.model, [row], torch.float32) for row in rows])
    assert torch.allclose(together, alone, atol=1e-4)

    def losses(max_tokens):
        settings = SETTINGS.model_copy(update={"max_tokens_per_microbatch": max_tokens, "num_epochs": 1})
        model = open_start(policy, settings).model
        return [step.values["loss"] for step in train_steps(model, pairs, settings, compute_dtype=torch.float32)]

    assert losses(64) == pytest.approx(losses(16384), abs=1e-4)


def test_the_first_loss_is_that_of_the_rewards_before_any_step(policy, preferences):
    start = open_start(policy, SETTINGS)
    pairs, _ = encode_comparisons(
        load_comparisons([str(preferences)])[0], DialogueEncoder(start.tokenizer, max_length=None)
    )
    chosen, rejected = rewards(start.model, pairs, torch.float32, 16384)
    by_hand = [math.log1p(math.exp(r - c)) + 0.01 * (c + r) ** 2 for c, r in zip(chosen, rejected, strict=True)]
    settings = SETTINGS.model_copy(update={"batch_pairs": len(pairs)})
    first = next(train_steps(start.model, pairs, settings, compute_dtype=torch.float32))
    assert first.values["loss"] == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-5)


def test_a_prompt_is_never_on_both_sides_whatever_the_order():
    ids = np.ones(1, np.int32)
    pairs = [EncodedPair(prompt_key=f"p{i % 40}", chosen=ids, rejected=ids) for i in range(200)]
    train, held_out = split_by_prompt(pairs, share=0.2, seed=1)
    keys, held = {pair.prompt_key for pair in train}, {pair.prompt_key for pair in held_out}
    assert not keys & held
    assert len(held_out) == 40
    assert {pair.prompt_key for pair in split_by_prompt(pairs[::-1], share=0.2, seed=1)[1]} == held
    assert {pair.prompt_key for pair in split_by_prompt(pairs, share=0.2, seed=2)[1]} != held
    assert split_by_prompt(pairs[:1], share=0.9, seed=1) == (pairs[:1], [])
    assert split_by_prompt(pairs, share=0.0, seed=1)[1] == []


def test_it_learns_and_says_how_well(fitted):
    _, steps, report = fitted
    assert report.num_pairs == 36
    assert report.held_out.num_pairs == 12
    assert report.held_out.num_prompts == 6
    assert report.dropped == {"tie": 1}
    assert report.held_out.accuracy == 1.0
    assert 0.7 < report.held_out.low < 1.0 == pytest.approx(report.held_out.high)
    assert report.losses == tuple(step.values["loss"] for step in steps)
    assert len(report.losses) == report.num_steps == 4 * 5
    assert report.losses[-1] < 0.5 < report.losses[0]


async def test_the_judge_loads_the_folder_as_it_is(fitted):
    out, _, report = fitted
    judge = build_reward_model(RewardModelBackend(model=str(out)))
    group = make_group(["red good one", "red bad"], question="say 7")
    good, bad = (await judge.score([group]))[0]
    assert good.value > bad.value
    assert judge.report().notices == ()
    config = json.loads((out / "config.json").read_text())
    assert config["architectures"] == ["LlamaForSequenceClassification"]
    assert config["pad_token_id"] not in (None, config["eos_token_id"])
    written = json.loads((out / REPORT).read_text())
    assert written["model_sha256"] == report.model_sha256 == hash_policy(out)
    assert written["held_out"]["accuracy"] == 1.0


def test_equal_inputs_give_equal_files(fitted, policy, preferences, tmp_path):
    out, _, _ = fitted
    fit([preferences], policy, tmp_path / "again", SETTINGS)
    for path in sorted(out.iterdir()):
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name


def test_frozen_embeddings_stay_and_the_rest_learns(policy, preferences, fitted, tmp_path):
    settings = SETTINGS.model_copy(update={"freeze_embeddings": True})
    _, report = fit([preferences], policy, tmp_path / "out", settings)
    before, after = load_file(policy / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    unfrozen = load_file(fitted[0] / "model.safetensors")
    [words] = [name for name in after if "embed_tokens" in name]
    assert torch.equal(after[words], before[words])
    assert not torch.equal(unfrozen[words], before[words])
    moved = [name for name in after if name in before and not torch.equal(after[name], before[name])]
    assert len(moved) == len(after) - 2, "all but the embeddings and the new head, which the policy has not"
    assert report.held_out.accuracy == 1.0


def test_a_reward_model_can_be_fitted_further(fitted, preferences, tmp_path):
    out, _, report = fitted
    settings = SETTINGS.model_copy(update={"num_epochs": 1, "learning_rate": 1e-5})
    _, further = fit([preferences], out, tmp_path / "more", settings)
    assert further.losses[0] < 0.5 < report.losses[0], "it keeps its head"


async def test_a_policy_whose_padding_ends_answers_gets_a_padding_of_its_own(preferences, tmp_path, monkeypatch):
    monkeypatch.setattr(reward_folder, "_PAD", "<|padding|>")  # the tiny tokenizer has the usual one
    folder = make_tiny_policy(tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(folder)
    settings = SETTINGS.model_copy(update={"num_epochs": 1, "max_pairs": 16, "dtype": "bfloat16"})
    _, report = fit([preferences], folder, tmp_path / "out", settings)
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["pad_token_id"] == config["vocab_size"] - 1 == 300
    assert report.dropped == {"tie": 1, "over_max_pairs": 32}
    assert report.num_pairs + report.held_out.num_pairs == 16
    judge = build_reward_model(RewardModelBackend(model=str(tmp_path / "out")))
    assert (await judge.score([make_group(["red good one"])]))[0][0].value is not None


def test_what_cannot_be_fitted_is_refused_and_leaves_nothing(policy, preferences, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists already"):
        fit([preferences], policy, tmp_path / "there", SETTINGS)
    with pytest.raises(UsageError, match="no policy that a reward model can start from"):
        fit([preferences], tmp_path / "there", tmp_path / "out", SETTINGS)
    with pytest.raises(UsageError, match="no pair to learn from: tie 1, too_long 48"):
        fit([preferences], policy, tmp_path / "out", SETTINGS.model_copy(update={"max_length": 3}))
    with pytest.raises(DivergedError, match="lower --learning-rate"):
        fit([preferences], policy, tmp_path / "out", SETTINGS.model_copy(update={"learning_rate": 1e30}))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there"]


def test_figures_on_held_out_pairs_by_hand():
    found = measure_held_out([2.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], num_prompts=4)
    p = [1 / (1 + math.exp(-d)) for d in (2, 1, -1, 0)]
    assert found.accuracy == 0.5
    assert (found.low, found.high) == (pytest.approx(0.150039, abs=1e-6), pytest.approx(0.849961, abs=1e-6))
    assert found.log_loss == pytest.approx(-sum(map(math.log, p)) / 4)
    assert found.brier == pytest.approx(sum((1 - each) ** 2 for each in p) / 4)
    # Bins: 0.88 alone and right; 0.73 twice, right and wrong; 0.5 alone and wrong.
    assert found.ece == pytest.approx((abs(1 - p[0]) + 2 * abs(0.5 - p[1]) + 0.5) / 4)


def test_the_temperature_is_the_one_that_made_the_answers():
    random = np.random.default_rng(0)
    margin = random.normal(0, 2, 40_000)
    observed = np.where(random.random(40_000) < 1 / (1 + np.exp(-abs(margin) / 2.5)), abs(margin), -abs(margin))
    assert best_temperature(observed) == pytest.approx(2.5, rel=0.05)
    calibrated = np.where(random.random(40_000) < 1 / (1 + np.exp(-abs(margin))), abs(margin), -abs(margin))
    assert expected_calibration_error(calibrated) < 0.01 < expected_calibration_error(observed)
    assert best_temperature(np.array([1.0, 2.0])) is None
    assert best_temperature(np.array([-1.0, -2.0])) is None
