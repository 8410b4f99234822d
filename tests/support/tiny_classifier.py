"""Sequence classifiers of random weights: a Llama, whose folder is that of a tiny policy, and a BERT."""

import json
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, LlamaForSequenceClassification

from tests.support.tiny_policy import make_tiny_policy, make_tiny_tokenizer


def make_tiny_classifier(folder: Path, *, num_labels: int = 1, seed: int = 0, chat_template: bool = True) -> Path:
    """A Llama with a head whose scores differ clearly; context of 512 tokens."""
    policy = make_tiny_policy(folder.with_name(f"{folder.name}-policy"), seed=seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForSequenceClassification.from_pretrained(policy, num_labels=num_labels, dtype=torch.float32)
        torch.nn.init.normal_(model.score.weight, std=0.5)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(policy)
    if not chat_template:
        tokenizer.chat_template = None
    tokenizer.save_pretrained(folder)
    shutil.rmtree(policy)
    return folder


def make_tiny_bert(folder: Path, *, num_labels: int = 1, seed: int = 0) -> Path:
    """An encoder with a pooling of its own, and no chat template; 128 positions."""
    folder.mkdir(parents=True)
    tokenizer = make_tiny_tokenizer(folder, chat_template=None)
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        num_labels=num_labels,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        BertForSequenceClassification(shape).save_pretrained(folder)
    return folder


def edit_config(folder: Path, **changed: object) -> None:
    """Change entries of config.json; None removes one."""
    path = folder / "config.json"
    found = {**json.loads(path.read_text()), **changed}
    path.write_text(json.dumps({name: value for name, value in found.items() if value is not None}))
