"""Packed rows hold each prompt once, and give the padded rows' log-probabilities and gradients."""

import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import flex_attention
from torch.utils._python_dispatch import TorchDispatchMode

from learner.batches import num_tokens, pad
from learner.logps import CompletionLogps, _say, completion_logps, compute_in, score
from learner.packed_attention import PackedRow, _GroupAttention, block_mask
from learner.packing import pack, packed_microbatches
from rollout.types import TokenSequence
from tests.support.tiny_models import random_sequences, tiny_model

CPU = torch.device("cpu")
TREES = [(3, [7, 2, 5]), (1, [1, 4]), (9, [6]), (2, [0, 3])]


def test_a_prompt_stands_once_and_positions_go_on_behind_it():
    one, other = random_sequences([(3, [4, 2])])
    packed = pack([other, one, other], device=CPU)
    assert packed.input_ids_N.tolist() == [*one.prompt_ids, *other.completion_ids[:-1], *one.completion_ids[:-1]]
    assert packed.position_ids_N.tolist() == [0, 1, 2, 3, 3, 4, 5]
    assert packed.predictors_M.tolist() == [2, 3, 2, 4, 5, 6]
    assert packed.target_ids_M.tolist() == [*other.completion_ids, *one.completion_ids]
    assert packed.rows == (slice(0, 2), slice(2, 6), slice(0, 2))


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="sequence 0 has an empty prompt"):
        pack(random_sequences([(0, [2])]), device=CPU)


def both_ways(model, sequences, weights=None):
    """[(log-probabilities, gradients)] of the packed pass and of the padded one."""
    found = []
    for is_packed in (True, False):
        logps_of = CompletionLogps(model)
        assert logps_of.is_packed
        logps_of.is_packed = is_packed
        model.zero_grad()
        logps_SC, mask_SC, _ = logps_of(sequences)
        (logps_SC.square().sum() / mask_SC.sum()).backward()
        assert not logps_SC[~mask_SC].any()
        found.append((logps_SC.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    return found


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gpt2", "opt", "phi"])
def test_packed_rows_give_what_padded_ones_give(family):
    (packed_SC, packed_grads), (padded_SC, padded_grads) = both_ways(tiny_model(family), random_sequences(TREES))
    torch.testing.assert_close(packed_SC, padded_SC, atol=1e-5, rtol=0)
    for got, expected in zip(packed_grads, padded_grads, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5 * max(1.0, expected.abs().max().item()), rtol=0)


@settings(max_examples=15, deadline=None)
@given(trees=st.lists(st.tuples(st.integers(1, 12), st.lists(st.integers(0, 12), min_size=1, max_size=4)), min_size=1))
def test_any_tree_of_prompts_is_exact_in_fp64(trees):
    (packed_SC, packed_grads), (padded_SC, padded_grads) = both_ways(
        tiny_model("gpt2").double(), [*random_sequences([*trees, (2, [3])])]
    )
    torch.testing.assert_close(packed_SC, padded_SC, atol=1e-12, rtol=0)
    for got, expected in zip(packed_grads, padded_grads, strict=True):
        torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-9)


def test_in_bf16_they_agree_within_its_rounding():
    model, sequences = tiny_model("llama"), random_sequences(TREES)
    sums = []
    for is_packed in (True, False):
        logps_of = CompletionLogps(model)
        logps_of.is_packed = is_packed
        with torch.no_grad(), compute_in(torch.bfloat16, CPU):
            logps_SC, mask_SC, _ = logps_of(sequences)
        sums.append(logps_SC.sum(dim=1) / mask_SC.sum(dim=1).clamp(min=1))
    torch.testing.assert_close(sums[0], sums[1], atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize(
    ("family", "said"), [("mistral", "sliding window"), ("gemma2", "sliding_attention"), ("bloom", "differ by")]
)
def test_other_attention_falls_back_to_padded_rows_and_says_so(family, said, caplog):
    model, sequences = tiny_model(family), random_sequences(TREES)
    _say.cache_clear()  # once in a process, and other tests have such models, too
    with caplog.at_level(logging.WARNING, logger="learner.logps"):
        logps_of = CompletionLogps(model)
        CompletionLogps(model)
    assert not logps_of.is_packed
    assert [said in record.message for record in caplog.records] == [True]
    batch = pad(sequences)
    logps_SC, mask_SC, _ = logps_of(sequences)
    torch.testing.assert_close(logps_SC[mask_SC], completion_logps(model, batch)[batch.completion_mask_BT])


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory left"), KeyError("of the model")])
def test_a_probe_that_fails_for_its_own_reasons_is_no_word_about_the_model(monkeypatch, error):
    def fails(*_):
        model.config._attn_implementation = "rondo_packed"
        raise error

    model = tiny_model("llama")
    monkeypatch.setattr("learner.logps.packed_scores", fails)
    with pytest.raises(type(error)):
        CompletionLogps(model)
    assert model.config._attn_implementation == "sdpa"


def attention_inputs(groups, dtype=torch.float64):
    num = groups[-1].all_completions[1]
    torch.manual_seed(0)
    return [torch.randn(1, 2, num, 4, dtype=dtype, requires_grad=True) for _ in range(3)]


def test_the_group_attention_has_its_own_gradients():
    groups = pack(random_sequences([(3, [3, 2]), (2, [4])]), device=CPU).groups
    assert torch.autograd.gradcheck(lambda *qkv: _GroupAttention.apply(*qkv, groups, 0.5), attention_inputs(groups))


def test_the_block_mask_of_the_gpu_says_the_same_as_the_groups_of_the_cpu():
    packed = pack(random_sequences(TREES), device=CPU)
    query, key, value = (tensor.detach() for tensor in attention_inputs(packed.groups, torch.float32))
    mask = block_mask(packed.groups, num_tokens=query.shape[2], device=CPU)
    expected = flex_attention(query, key, value, block_mask=mask, scale=0.5).transpose(1, 2)
    torch.testing.assert_close(_GroupAttention.apply(query, key, value, packed.groups, 0.5), expected)
    assert PackedRow(packed.groups, num_tokens=query.shape[2], device=CPU).block_mask is None


@settings(max_examples=50, deadline=None)
@given(
    trees=st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(0, 9), min_size=2, max_size=2)), min_size=1),
    repeats=st.integers(1, 3),
    max_tokens=st.integers(1, 80),
)
def test_passes_hold_every_pair_once_within_the_bound(trees, repeats, max_tokens):
    sequences = random_sequences(trees) * repeats
    items = list(zip(sequences[0::2], sequences[1::2], strict=True))
    cuts = packed_microbatches(items, max_tokens=max_tokens)
    assert sorted(index for cut in cuts for index in cut) == list(range(len(items)))
    for cut in cuts:
        packed = pack([side for index in cut for side in items[index]], device=CPU)
        assert len(cut) == 1 or len(packed.input_ids_N) <= max_tokens


def test_pairs_of_a_prompt_share_a_pass():
    first, second = (
        random_sequences([(5, [3, 3, 2, 2]), (5, [3, 3, 2, 2])], seed=3)[:4],
        random_sequences([(5, [3, 3, 2, 2])], seed=4),
    )
    items = [(first[0], first[1]), (second[0], second[1]), (first[2], first[3]), (second[2], second[3])]
    assert packed_microbatches(items, max_tokens=15) == [[0, 2], [1, 3]]
    assert packed_microbatches(items, max_tokens=14) == [[0], [2], [1], [3]]


def test_scores_do_not_depend_on_the_split_and_stay_in_order():
    model, sequences = tiny_model("llama"), random_sequences(TREES)
    whole = score(model, sequences, compute_dtype=torch.float32, max_tokens=10**6)
    for max_tokens in (1, 20):
        for row, (got, expected) in enumerate(
            zip(score(model, sequences, compute_dtype=torch.float32, max_tokens=max_tokens), whole, strict=True)
        ):
            assert len(got) == len(sequences[row].completion_ids)
            np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("num_passes", [1, 2])
def test_tied_embeddings_keep_a_dense_gradient_and_make_no_second_one(num_passes):
    model = tiny_model("llama", tie_word_embeddings=True)
    weight, sequences = model.lm_head.weight, random_sequences(TREES)
    made = []

    class Whole(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made.append(str(function)) if "embedding_dense_backward" in str(function) else None
            return function(*args, **(kwargs or {}))

    grads = []
    for sparse in (True, False):
        logps_of = CompletionLogps(model)
        assert model.get_input_embeddings().sparse
        model.get_input_embeddings().sparse = sparse
        model.zero_grad()
        for _ in range(num_passes):
            with Whole():
                logps_of(sequences)[0].square().sum().backward()
        assert not weight.grad.is_sparse
        assert bool(made) is not sparse
        grads.append(weight.grad.clone())
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4, rtol=1e-5)


def test_twenty_steps_over_shared_prompts_are_the_same_bit_for_bit():
    def trajectory():
        model = tiny_model("llama", tie_word_embeddings=True)
        logps_of, sequences = CompletionLogps(model), random_sequences([(6, [5] * 6), (3, [9, 2, 4])])
        optimizer, found = torch.optim.AdamW(model.parameters(), lr=1e-3), []
        for _ in range(20):
            optimizer.zero_grad()
            loss = logps_of(sequences)[0].sum(dim=1).square().mean()
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    first = trajectory()
    assert first == trajectory()
    assert first[-1] < first[0]


def test_a_pass_computes_shared_prompts_once():
    """The figure that the speed rests on: tokens that go through the decoder."""
    sequences = random_sequences([(20, [5] * 8)])
    assert len(pack(sequences, device=CPU).input_ids_N) == 20 + 8 * 4
    assert sum(num_tokens(sequence) for sequence in sequences) == 200
    twice = TokenSequence(prompt_ids=sequences[0].prompt_ids, completion_ids=sequences[0].completion_ids)
    assert len(pack([sequences[0], twice], device=CPU).input_ids_N) == 20 + 4
