"""A random policy and random pairs of a stated shape, and the operations that one step over them must do."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from learner.packing import pack
from learner.pairs import TokenPair
from rollout.types import TokenSequence

_WARM_UP_PROMPT = 32


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A Llama, and the lengths of prompts and answers: uniform over both ends, but for a short first step, which warms
    up. num_kv_heads: by default as many as heads."""

    hidden_size: int = 640
    intermediate_size: int = 1792
    num_layers: int = 10
    num_heads: int = 10
    num_kv_heads: int | None = None
    tied: bool = True
    vocab_size: int = 16384
    prompt_tokens: int = 32
    min_answer_tokens: int = 32
    max_answer_tokens: int = 192
    pairs_per_step: int = 4
    pairs_per_prompt: int = 1
    num_steps: int = 8

    @property
    def kv_size(self) -> int:
        """Elements of one token's keys."""
        return self.hidden_size // self.num_heads * (self.num_kv_heads or self.num_heads)

    @property
    def num_parameters(self) -> int:
        """All weights; norms are left out, as they are too few to count."""
        return self.layer_weights * self.num_layers + self.vocab_size * self.hidden_size * (1 if self.tied else 2)

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's products: queries and output, keys and values, and three of the MLP."""
        attention = 2 * self.hidden_size * (self.hidden_size + self.kv_size)
        return attention + 3 * self.hidden_size * self.intermediate_size


def make_checkpoint(folder: Path, shape: Shape) -> Path:
    """Write the policy's folder."""
    torch.manual_seed(0)
    LlamaForCausalLM(llama(shape)).save_pretrained(folder)
    return folder


def llama(shape: Shape) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads or shape.num_heads,
        max_position_embeddings=32768,
        tie_word_embeddings=shape.tied,
    )


def make_pairs(shape: Shape) -> list[list[TokenPair]]:
    """The pairs of each step."""
    random = np.random.default_rng(0)

    def ids(num: int) -> np.ndarray:
        return random.integers(3, shape.vocab_size, num, dtype=np.int32)

    def side(prompt_ids: np.ndarray, longest: int) -> TokenSequence:
        num = int(random.integers(shape.min_answer_tokens, longest + 1))
        return TokenSequence(prompt_ids=prompt_ids, completion_ids=ids(num))

    steps = []
    for step in range(shape.num_steps):
        pairs: list[TokenPair] = []
        longest = shape.max_answer_tokens if step else shape.min_answer_tokens
        while len(pairs) < shape.pairs_per_step:
            if len(pairs) % shape.pairs_per_prompt == 0:
                prompt_ids = ids(shape.prompt_tokens if step else min(shape.prompt_tokens, _WARM_UP_PROMPT))
            name = f"{step}/{len(pairs)}"
            chosen, rejected = side(prompt_ids, longest), side(prompt_ids, longest)
            pairs.append(TokenPair(pair_id=name, content_hash=name, chosen=chosen, rejected=rejected))
        steps.append(pairs)
    return steps


def needed_flops(pairs: Sequence[TokenPair], shape: Shape) -> float:
    """Operations of the reference's forward pass and the policy's forward and backward pass, nothing twice.

    Matrix products only: each prompt once, the head at the places that predict a completion token, attention at the
    keys that are seen. A multiplication and an addition are two operations; backward is twice forward.
    """
    packed = pack([side for pair in pairs for side in (pair.chosen, pair.rejected)], device=torch.device("cpu"))
    hidden, num_tokens = shape.hidden_size, len(packed.input_ids_N)
    seen = 0
    for group in packed.groups:
        num_prompt = group.prompt[1] - group.prompt[0]
        seen += num_prompt * (num_prompt + 1) // 2
        for start, end in group.completions:
            seen += (end - start) * num_prompt + (end - start) * (end - start + 1) // 2
    forward = shape.num_layers * (2 * shape.layer_weights * num_tokens + 4 * hidden * seen)
    forward += 2 * hidden * shape.vocab_size * len(packed.target_ids_M)
    return 4.0 * forward


def gemm_flops_per_s(shape: Shape, *, num_rows: int = 1024, num_repeats: int = 7) -> float:
    """The machine's fp32 rate over the products of one layer: medians of repeats."""
    hidden, wide = shape.hidden_size, shape.intermediate_size
    num_flops = seconds = 0.0
    for size_in, size_out in ((hidden, hidden), (hidden, wide), (wide, hidden)):
        left, right = torch.randn(num_rows, size_in), torch.randn(size_out, size_in)
        taken = []
        for _ in range(num_repeats):
            started = perf_counter()
            left @ right.T
            taken.append(perf_counter() - started)
        num_flops += 2.0 * num_rows * size_in * size_out
        seconds += float(np.median(taken))
    return num_flops / seconds
