"""Messages become tokens once, by the policy's own template, and the tokens say by what they were made."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rollout.encoder import PromptEncoder
from rollout.errors import DataError, UsageError
from rollout.prompts import prompt_id
from rollout.types import Message, Prompt
from tests.support.tiny_policy import make_tiny_policy, make_tiny_tokenizer

DATED = "{{ strftime_now('%d %B %Y') }}{% for m in messages %}{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> Path:
    return make_tiny_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture(scope="module")
def encoder(policy) -> PromptEncoder:
    return PromptEncoder(path=policy)


@pytest.fixture(scope="module")
def tokenizer(policy):
    return AutoTokenizer.from_pretrained(policy)


def make_prompt(*turns: str, role: str = "user") -> Prompt:
    messages = tuple(Message(role=role, content=turn) for turn in turns)
    return Prompt(prompt_id=prompt_id(messages), messages=messages, source="test")


def whole_text(encoder: PromptEncoder, policy: Path, prompt: Prompt) -> str:
    return AutoTokenizer.from_pretrained(policy).decode(encoder.encode(prompt))


def test_the_template_is_applied_with_the_start_of_an_answer(policy):
    encoder = PromptEncoder(path=policy)
    token_ids = encoder.encode(make_prompt("hello"))
    assert token_ids.dtype == np.int32
    assert whole_text(encoder, policy, make_prompt("hello")) == "<|bos|><|user|>hello<|eot|><|assistant|>"


def test_tokens_are_those_of_transformers_in_one_go(policy):
    prompt = make_prompt("the quick answer", "is good")
    expected = AutoTokenizer.from_pretrained(policy).apply_chat_template(
        list(prompt.messages), add_generation_prompt=True, return_dict=False
    )
    assert PromptEncoder(path=policy).encode(prompt).tolist() == expected


def test_a_tokenizer_that_adds_a_first_token_adds_none_to_the_templates(policy, tmp_path):
    folder = shutil.copytree(policy, tmp_path / "copy")
    content = json.loads((folder / "tokenizer.json").read_text())
    first = {"SpecialToken": {"id": "<|bos|>", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|bos|>": {"id": "<|bos|>", "ids": [1], "tokens": ["<|bos|>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert AutoTokenizer.from_pretrained(folder)("a")["input_ids"][0] == 1
    assert PromptEncoder(path=folder).encode(make_prompt("a")).tolist().count(1) == 1


def test_a_system_prompt_is_used_only_where_there_is_none(policy):
    encoder = PromptEncoder(path=policy, system_prompt="Be kind.")
    assert whole_text(encoder, policy, make_prompt("a")).startswith("<|bos|><|system|>Be kind.<|eot|><|user|>a")
    own = (Message(role="system", content="Be brief."), Message(role="user", content="a"))
    text = whole_text(encoder, policy, Prompt(prompt_id="x", messages=own, source="test"))
    assert text.startswith("<|bos|><|system|>Be brief.<|eot|><|user|>a")


def test_a_template_of_ones_own_comes_as_text_or_file(policy, tmp_path):
    template = "{% for m in messages %}{{ m['content'] }}{{ extra }}{% endfor %}"
    (tmp_path / "template.jinja").write_text(template)
    by_text = PromptEncoder(path=policy, chat_template=template, chat_template_kwargs={"extra": "!"})
    by_file = PromptEncoder(
        path=policy, chat_template=str(tmp_path / "template.jinja"), chat_template_kwargs={"extra": "!"}
    )
    assert whole_text(by_text, policy, make_prompt("a", "b")) == "a!b!"
    assert by_file.signature == by_text.signature


def test_a_prompt_that_leaves_no_room_is_unusable(policy):
    prompt = make_prompt("hello")
    num_tokens = len(PromptEncoder(path=policy).encode(prompt))
    assert len(PromptEncoder(path=policy, max_prompt_tokens=num_tokens).encode(prompt)) == num_tokens
    with pytest.raises(DataError, match=f"prompt_too_long: {num_tokens} tokens, at most {num_tokens - 1} fit"):
        PromptEncoder(path=policy, max_prompt_tokens=num_tokens - 1).encode(prompt)


@given(content=st.text(st.characters(codec=None), max_size=8).map(lambda text: f"{text}\ud83d"))
@settings(max_examples=30, deadline=None)
def test_lone_surrogates_are_unusable(encoder, content):
    with pytest.raises(DataError) as raised:
        encoder.encode(make_prompt(content))
    assert raised.value.reason == "prompt_invalid_unicode"


def test_a_conversation_that_the_template_refuses_is_unusable(policy):
    template = (
        "{% for m in messages %}{% if m['role'] == 'tool' %}{{ raise_exception('no tools') }}{% endif %}x{% endfor %}"
    )
    encoder = PromptEncoder(path=policy, chat_template=template)
    with pytest.raises(DataError, match="prompt_unusable: the chat template refused it: no tools"):
        encoder.encode(make_prompt("a", role="tool"))


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
@settings(max_examples=100, deadline=None)
def test_decoding_gives_the_text_back_without_special_tokens(encoder, tokenizer, text):
    assert encoder.decode(np.int32([*tokenizer(text)["input_ids"], 2])) == text


def test_decoding_strips_and_tidies_nothing(encoder, tokenizer):
    text = "  a , b .\n do n't "
    assert encoder.decode(np.int32(tokenizer(text)["input_ids"])) == text
    assert encoder.decode(np.int32(tokenizer("\u20ac")["input_ids"][:1])) == "\ufffd"
    assert encoder.decode(np.int32([])) == ""


def test_the_templates_clock_is_frozen(policy):
    prompt = make_prompt("!")
    encoder = PromptEncoder(path=policy, chat_template=DATED, frozen_date="2024-02-29")
    assert whole_text(encoder, policy, prompt) == "29 February 2024!"
    later = PromptEncoder(path=policy, chat_template=DATED, frozen_date="2024-03-01")
    assert later.signature != encoder.signature
    plain = [PromptEncoder(path=policy, frozen_date=day).signature for day in ("2024-02-29", "2024-03-01")]
    assert plain[0] == plain[1], "a template without a clock makes the same tokens every day"


def test_stop_ids_are_all_that_the_model_may_end_with(policy, tmp_path):
    assert PromptEncoder(path=policy).stop_ids == (2,)
    folder = shutil.copytree(policy, tmp_path / "copy")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 1]}))
    encoder = PromptEncoder(path=folder)
    assert encoder.stop_ids == encoder.signature.stop_ids == (1, 2, 5)
    (folder / "generation_config.json").unlink()
    assert PromptEncoder(path=folder).stop_ids == (2,)
    assert encoder.pad_id == 0


def test_the_signature_survives_saving_and_use(policy, tmp_path):
    encoder = PromptEncoder(path=policy)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    tokenizer(["a", "a b c"], padding=True, truncation=True, max_length=2)
    tokenizer.save_pretrained(tmp_path)
    shutil.copy(policy / "generation_config.json", tmp_path)
    assert PromptEncoder(path=tmp_path).signature == encoder.signature


def test_the_signature_sees_whatever_changes_tokens(policy, tmp_path):
    other_words = json.loads((policy / "tokenizer.json").read_text())
    other_words["model"]["merges"].pop()
    folder = shutil.copytree(policy, tmp_path / "copy")
    (folder / "tokenizer.json").write_text(json.dumps(other_words))
    signatures = [
        PromptEncoder(path=policy).signature,
        PromptEncoder(path=folder).signature,
        PromptEncoder(path=policy, chat_template="{{ messages[0]['content'] }}").signature,
        PromptEncoder(path=policy, chat_template_kwargs={"thinking": False}).signature,
        PromptEncoder(path=policy, system_prompt="Be kind.").signature,
    ]
    assert len(set(signatures)) == len(signatures)


def test_a_folder_without_a_tokenizer_is_refused(policy, tmp_path):
    shutil.copy(policy / "config.json", tmp_path)
    with pytest.raises(UsageError, match=r"has no tokenizer .* copy the tokenizer's files"):
        PromptEncoder(path=tmp_path)
    with pytest.raises(UsageError, match="cannot load a tokenizer from /no/such/folder"):
        PromptEncoder(path="/no/such/folder")


def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path):
    make_tiny_tokenizer(tmp_path, chat_template=None)
    with pytest.raises(UsageError, match=r"no chat template.*policy\.chat_template"):
        PromptEncoder(path=tmp_path)
    assert len(PromptEncoder(path=tmp_path, chat_template="{{ messages[0]['content'] }}").encode(make_prompt("a"))) == 1


def test_settings_that_cannot_work_are_refused(policy, tmp_path):
    with pytest.raises(UsageError, match="neither a Jinja template"):
        PromptEncoder(path=policy, chat_template="missing.jinja")
    with pytest.raises(UsageError, match="cannot render one user turn"):
        PromptEncoder(path=policy, chat_template="{% for m in messages %}")
    no_system = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turn') }}{% endif %}a"
    with pytest.raises(UsageError, match=r"policy.system_prompt and one user turn .*no system turn"):
        PromptEncoder(path=policy, chat_template=no_system, system_prompt="Be kind.")
    with pytest.raises(UsageError, match="sets 'tokenize'"):
        PromptEncoder(path=policy, chat_template_kwargs={"tokenize": True})
    folder = shutil.copytree(policy, tmp_path / "copy")
    content = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**content, "eos_token": None}))
    (folder / "generation_config.json").unlink()
    with pytest.raises(UsageError, match="no end-of-sequence token"):
        PromptEncoder(path=folder)
