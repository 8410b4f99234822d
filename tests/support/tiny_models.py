"""Random models of a few hundred parameters in the shapes of well-known families, and random sequences for them."""

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from rollout.types import TokenSequence

VOCAB = 97
_LLAMA = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.3,
}  # fmt: skip
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, "initializer_range": 0.3}
SHAPES = {
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA | {"head_dim": 8},
    "gpt2": _GPT2,
    "opt": {"hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "word_embed_proj_dim": 32, "init_std": 0.3, "max_position_embeddings": 64},
    "phi": {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
            "initializer_range": 0.3, "max_position_embeddings": 64},
    "mistral": _LLAMA,
    "gemma2": _LLAMA | {"head_dim": 8},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3},
}  # fmt: skip


def tiny_model(family, **changed):
    torch.manual_seed(0)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CONFIG_MAPPING[family](vocab_size=VOCAB, **SHAPES[family], **special, **changed)
    return AutoModelForCausalLM.from_config(config).eval()


def random_sequences(trees, seed=0):
    """One list of completion lengths for each prompt length: [(3, [4, 5])] is one prompt with two completions."""
    random = np.random.default_rng(seed)
    found = []
    for num_prompt, lengths in trees:
        prompt_ids = random.integers(0, VOCAB, num_prompt, dtype=np.int32)
        found += [
            TokenSequence(prompt_ids=prompt_ids, completion_ids=random.integers(0, VOCAB, length, dtype=np.int32))
            for length in lengths
        ]
    return found
