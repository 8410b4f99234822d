"""Supervised fine-tuning trains the answers' tokens only, the end of turn among them, and is bit for bit repeatable."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from learner import base_policy
from learner.base_config import ScratchConfig, SftConfig
from learner.base_policy import BaseRecipe, make_base
from learner.config import LearnerConfig
from learner.demonstrations import ChatFormat, Demonstration, encode_all, load_demonstrations
from learner.scratch import random_model, train_tokenizer
from learner.sft import fine_tune, plan, rate_share
from rollout.encoder import PromptEncoder
from rollout.errors import UsageError
from rollout.prompts import prompt_id
from rollout.shards import hash_policy
from rollout.types import Prompt

SCRATCH = ScratchConfig(
    vocabulary_size=400, hidden_size=64, intermediate_size=96, num_layers=1, num_heads=2, num_kv_heads=1
)
QUESTIONS = ["What is a hammer?", "What is the moon?", "Tell me about bread."]
ANSWERS = ["A hammer drives nails.", "It circles the earth.", "Bread is baked."]
ROWS = [{"prompt": question, "completion": answer} for question, answer in zip(QUESTIONS, ANSWERS, strict=True)] * 8
SFT = SftConfig(demonstrations="unused", num_epochs=2, batch_rows=4, learning_rate=3e-3)


@pytest.fixture
def chat():
    texts = [text for row in ROWS for text in row.values()]
    return ChatFormat(tokenizer=train_tokenizer(texts, vocabulary_size=400, context_length=64))


@pytest.fixture
def sequences(chat):
    found = [Demonstration(messages=({"role": "user", "content": r["prompt"]},), answer=r["completion"]) for r in ROWS]
    return encode_all(found, chat, max_length=None)[0]


def train(chat, sequences, seed=1, **changes):
    model = random_model(chat.tokenizer, SCRATCH, seed=1)
    steps = list(fine_tune(model, sequences, settings=SFT.model_copy(update=changes), seed=seed))
    return model, steps


def rows_file(folder, rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_the_loss_falls_and_greedy_answers_are_the_demonstrated_ones_to_their_end(chat, sequences):
    model, steps = train(chat, sequences, num_epochs=12)
    assert [step.step for step in steps] == list(range(1, 73))
    assert steps[0].values["loss"] > 3
    assert steps[-1].values["loss"] < 0.1
    prompt = torch.from_numpy(sequences[0].prompt_ids).long()[None]
    out = model.generate(prompt, do_sample=False, max_new_tokens=40)[0, prompt.shape[1] :]
    assert out.tolist() == sequences[0].completion_ids.tolist()
    assert out[-1] == chat.tokenizer.eos_token_id


def test_a_second_training_has_the_same_bits(chat, sequences):
    first, again = (train(chat, sequences)[0].state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_prompt_tokens_are_not_trained(chat, sequences):
    _, steps = train(chat, sequences)
    model = random_model(chat.tokenizer, SCRATCH, seed=1)
    first = plan([len(s.prompt_ids) + len(s.completion_ids) for s in sequences], batch_rows=4, seed=1, epoch=0)[0]
    logps = []
    for row in first:
        ids = torch.from_numpy(np.concatenate([sequences[row].prompt_ids, sequences[row].completion_ids])).long()
        logits = model(input_ids=ids[None]).logits[0]
        own = torch.log_softmax(logits[:-1], dim=-1).gather(1, ids[1:, None])[:, 0]
        logps.append(own[len(sequences[row].prompt_ids) - 1 :])
    assert steps[0].values["loss"] == pytest.approx(-torch.cat(logps).mean().item(), abs=1e-5)


def test_the_split_into_passes_leaves_the_training_unchanged(chat, sequences):
    whole, _ = train(chat, sequences)
    passes = random_model(chat.tokenizer, SCRATCH, seed=1)
    list(fine_tune(passes, sequences, settings=SFT, seed=1, max_tokens_per_microbatch=1))
    for name, weight in whole.state_dict().items():
        torch.testing.assert_close(passes.state_dict()[name], weight, atol=1e-4, rtol=1e-3)


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), max_size=90), st.integers(1, 7), st.integers(0, 3))
def test_a_plan_has_every_row_once(lengths, batch_rows, epoch):
    batches = plan(lengths, batch_rows=batch_rows, seed=5, epoch=epoch)
    assert sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    assert all(1 <= len(batch) <= batch_rows for batch in batches)
    assert batches == plan(lengths, batch_rows=batch_rows, seed=5, epoch=epoch)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_the_rate_rises_to_its_peak_and_falls_without_reaching_zero(schedule):
    shares = [rate_share(step, 100, schedule=schedule, warmup_share=0.1) for step in range(1, 101)]
    assert shares[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert 0 < shares[-1] < 0.02


def test_rows_that_cannot_be_used_are_counted(chat):
    def said(text):
        return Demonstration(messages=({"role": "user", "content": "Hello"},), answer=text)

    usable, rejected = encode_all([said("Fine."), said("\ud800"), said("long " * 99)], chat, max_length=50)
    assert len(usable) == 1
    assert rejected == {"demonstration_invalid_unicode": 1, "demonstration_too_long": 1}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hello", "completion": "Fine."},
        {"prompt": [{"role": "user", "content": "Hello"}], "completion": [{"role": "assistant", "content": "Fine."}]},
        {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Fine."}]},
    ],
)
def test_every_usual_shape_of_a_row_is_read(tmp_path, row):
    (found,) = load_demonstrations(rows_file(tmp_path, [row]))
    assert found == Demonstration(messages=({"role": "user", "content": "Hello"},), answer="Fine.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Hello"},
        {"messages": [{"role": "user", "content": "Hello"}]},
        {"prompt": "a", "completion": []},
        {"prompt": "a", "completion": 3},
    ],
)
def test_a_row_that_is_no_demonstration_is_refused_by_its_place(tmp_path, row):
    with pytest.raises(UsageError, match=r"rows\.jsonl:1 .*expected"):
        load_demonstrations(rows_file(tmp_path, [row]))


def run(recipe, run_dir):
    steps = make_base(recipe, run_dir=run_dir, path="policies/v0000", learner=LearnerConfig(device="cpu"), seed=3)
    values = []
    while True:
        try:
            values.append(next(steps))
        except StopIteration as end:
            return end.value, values


def recipe(**changes):
    return BaseRecipe(**{"source": None, "scratch": None, "sft": None, "dtype": "float32", **changes})


def test_a_base_from_nothing_by_fine_tuning_and_then_by_more_of_it(tmp_path):
    sft = SFT.model_copy(update={"demonstrations": rows_file(tmp_path, ROWS)})
    first, steps = run(recipe(scratch=SCRATCH, sft=sft), tmp_path)
    folder = tmp_path / "policies" / "v0000"
    assert (first.version, first.path, first.sha256) == (0, "policies/v0000", hash_policy(folder))
    assert len(steps) == steps[0].num_steps == 12
    further, _ = run(recipe(source=folder, sft=sft, dtype="bfloat16"), tmp_path / "other")
    assert further.sha256 != first.sha256
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "other" / further.path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "other" / further.path)
    assert model.dtype == torch.bfloat16
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id]
    assert not list(tmp_path.rglob(".tmp-*"))


def test_a_base_from_nothing_alone_follows_from_its_seed(tmp_path):
    first, steps = run(recipe(scratch=SCRATCH), tmp_path / "a")
    assert steps == []
    assert first == run(recipe(scratch=SCRATCH), tmp_path / "b")[0]


def test_demonstrations_are_encoded_as_rollout_encodes_prompts(tmp_path, chat):
    run(recipe(scratch=SCRATCH), tmp_path)
    encoder = PromptEncoder(path=tmp_path / "policies" / "v0000", system_prompt="Be kind.")
    messages = ({"role": "user", "content": "Hello"},)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policies" / "v0000")
    own = ChatFormat(tokenizer=tokenizer, system_prompt="Be kind.")
    prompt = Prompt(prompt_id=prompt_id(messages), messages=messages, source="test")
    found = own.encode(Demonstration(messages=messages, answer="Fine."))
    assert found.prompt_ids.tolist() == encoder.encode(prompt).tolist()
    assert encoder.decode(found.completion_ids) == "Fine."


def test_a_crash_leaves_no_half_made_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(base_policy, "hash_policy", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(recipe(scratch=SCRATCH), tmp_path)
    assert not (tmp_path / "policies" / "v0000").exists()
