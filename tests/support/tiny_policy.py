"""A policy small enough for every test: two Llama layers with random weights, and a byte-level BPE tokenizer."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|pad|>", "<|bos|>", "<|eot|>", "<|user|>", "<|assistant|>", "<|system|>"]
CORPUS = ["the quick answer is good and the long answer is better than a question about things that are not here"]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def make_tiny_tokenizer(folder: Path, *, chat_template: str | None = TEMPLATE) -> PreTrainedTokenizerFast:
    """A tokenizer of 300 ids that can spell any text; <|eot|> (id 2) ends a turn."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", bos_token="<|bos|>", eos_token="<|eot|>"
    )
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    return fast


def make_tiny_policy(folder: Path, *, seed: int = 0, tie: bool = True, context: int = 512) -> Path:
    """Write a Hugging Face folder: fp32 safetensors, tokenizer, generation config; context in tokens.

    Weights are large enough for logits to differ clearly, so that greedy tokens do not hang on rounding.
    The caller's random state is left as it was.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tiny_tokenizer(folder)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,  # the smallest that vLLM's attention takes
        max_position_embeddings=context,
        initializer_range=0.2,
        tie_word_embeddings=tie,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        dtype="float32",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=[2], pad_token_id=0)
    model.save_pretrained(folder)
    return folder
