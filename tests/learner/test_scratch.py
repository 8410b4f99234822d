"""A policy from nothing follows from its texts and its seed, spells any text, and loads as a Hugging Face folder."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from learner.base_config import ScratchConfig
from learner.scratch import random_model, train_tokenizer
from orchestrator.quickstart import demonstrations

SMALL = ScratchConfig(
    vocabulary_size=400, hidden_size=64, intermediate_size=96, num_layers=1, num_heads=2, num_kv_heads=1
)
TEXTS = ["A hammer drives nails into wood.", "A hammer has a heavy steel head."] * 3
TOKENIZER = train_tokenizer(TEXTS, vocabulary_size=400, context_length=256)


def test_the_same_texts_give_the_same_tokenizer():
    again = train_tokenizer(TEXTS, vocabulary_size=400, context_length=256)
    assert again.backend_tokenizer.to_str() == TOKENIZER.backend_tokenizer.to_str()


@given(st.text())
def test_any_text_comes_back_from_its_tokens(text):
    ids = TOKENIZER.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(ids, clean_up_tokenization_spaces=False) == text


def test_words_of_the_texts_are_single_tokens_and_no_text_leaves_only_bytes():
    assert len(TOKENIZER.encode(" hammer")) == 1
    assert len(train_tokenizer([], vocabulary_size=400, context_length=256)) == 256 + 5


def test_the_chat_template_ends_every_turn_and_opens_the_answer():
    turns = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Tell me about a hammer."}]
    text = TOKENIZER.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    assert text == "<|system|>Be kind.<|end|><|user|>Tell me about a hammer.<|end|><|assistant|>"
    ids = TOKENIZER(text, add_special_tokens=False)["input_ids"]
    assert ids.count(TOKENIZER.eos_token_id) == 2
    assert TOKENIZER.decode([TOKENIZER.eos_token_id]) == "<|end|>"


def test_weights_follow_from_the_seed_alone():
    state = torch.get_rng_state()
    first, again, other = (random_model(TOKENIZER, SMALL, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


def test_the_quickstart_policy_has_3_to_10_million_parameters():
    texts = (text for row in demonstrations() for text in row.values())
    config = ScratchConfig()
    tokenizer = train_tokenizer(texts, vocabulary_size=config.vocabulary_size, context_length=config.context_length)
    model = random_model(tokenizer, config, seed=17)
    assert 3e6 <= model.num_parameters() <= 10e6
    assert model.config.tie_word_embeddings
    assert model.generation_config.eos_token_id == [tokenizer.eos_token_id]


@pytest.mark.parametrize(
    "wrong", [{"num_heads": 3}, {"num_heads": 4, "num_kv_heads": 3}, {"hidden_size": 64, "num_heads": 4}]
)
def test_heads_that_do_not_fit_are_refused(wrong):
    with pytest.raises(ValidationError, match="expected"):
        ScratchConfig(**wrong)
