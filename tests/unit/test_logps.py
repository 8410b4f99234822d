"""The tiled log-probabilities equal the plain ones, whatever the padding, the tiles and the split."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from learner.batches import microbatches, pad
from learner.logps import completion_logps
from rollout.types import TokenSequence

VOCAB = 97


def build(tied=False):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, tie_word_embeddings=tied, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def model_fp64():
    """GPT-2, because it computes in float64 throughout; Llama's norm and rotation are always float32."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCAB, n_embd=32, n_layer=2, n_head=4, n_positions=64, initializer_range=0.3)
    return GPT2LMHeadModel(config).double().eval()


def sequences(lengths, seed=0):
    random = np.random.default_rng(seed)
    return [
        TokenSequence(
            prompt_ids=random.integers(0, VOCAB, prompt, dtype=np.int32),
            completion_ids=random.integers(0, VOCAB, completion, dtype=np.int32),
        )
        for prompt, completion in lengths
    ]


def naive(model, sequence):
    """Full logits of one unpadded sequence, by the model's own forward pass."""
    ids = torch.tensor(np.concatenate([sequence.prompt_ids, sequence.completion_ids]), dtype=torch.long)[None]
    logps_TV = torch.log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
    start = len(sequence.prompt_ids)
    return logps_TV[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0]


@pytest.mark.parametrize("tied", [False, True])
def test_equal_to_the_naive_path(tied):
    model, rows = build(tied=tied), sequences([(3, 7), (1, 1), (9, 2), (4, 0)])
    batch = pad(rows, pad_id=5)
    logps_BT = completion_logps(model, batch)
    assert logps_BT.dtype == torch.float32
    assert not logps_BT[~batch.completion_mask_BT].any()
    for row, logps_T, mask_T in zip(rows, logps_BT, batch.completion_mask_BT, strict=True):
        torch.testing.assert_close(logps_T[mask_T].double(), naive(model, row), atol=1e-5, rtol=0)


def test_tiles_change_neither_values_nor_gradients(model):
    batch = pad(sequences([(3, 7), (2, 5), (9, 2)]))
    results = []
    for tile_elements in (2**26, 4 * VOCAB, 1):
        model.zero_grad()
        logps_BT = completion_logps(model, batch, tile_elements=tile_elements)
        logps_BT.sum().backward()
        results.append((logps_BT.detach(), model.lm_head.weight.grad.clone(), model.model.norm.weight.grad.clone()))
    for other in results[1:]:
        for got, expected in zip(other, results[0], strict=True):
            torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=1, max_size=6),
    max_tokens=st.integers(1, 200),
    padding=st.tuples(st.integers(0, VOCAB - 1), st.integers(1, 20)),
)
def test_padding_and_split_leave_the_log_probabilities_unchanged(model, model_fp64, lengths, max_tokens, padding):
    rows, (pad_id, num_more) = sequences(lengths), padding
    totals = [len(row.prompt_ids) + len(row.completion_ids) for row in rows]
    longer = sequences([(20 + num_more, 20)], seed=1)
    for current, tolerance in ((model, 1e-6), (model_fp64, 1e-12)):
        with torch.no_grad():
            for cut in microbatches(range(len(rows)), totals, max_tokens=max_tokens):
                batch = pad([rows[i] for i in cut] + longer, pad_id=pad_id)
                for i, logps_T in zip(cut, completion_logps(current, batch), strict=False):
                    alone_T = completion_logps(current, pad([rows[i]]))[0]
                    torch.testing.assert_close(logps_T[: len(alone_T)], alone_T, atol=5 * tolerance, rtol=tolerance)
