"""Padding and the order of learning: nothing is lost, nothing depends on how pairs arrived."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.batches import microbatches, pad, shuffled, split
from rollout.types import TokenSequence


def sequence(prompt, completion):
    return TokenSequence(prompt_ids=np.array(prompt, np.int32), completion_ids=np.array(completion, np.int32))


def test_padding_stands_on_the_right_and_masks_say_what_is_what():
    batch = pad([sequence([5, 6], [7]), sequence([8], [9, 10, 11])], pad_id=3)
    assert batch.input_ids_BT.tolist() == [[5, 6, 7, 3], [8, 9, 10, 11]]
    assert batch.attention_mask_BT.tolist() == [[True, True, True, False], [True] * 4]
    assert batch.completion_mask_BT.tolist() == [[False, False, True, False], [False, True, True, True]]


def test_an_empty_completion_is_a_row_without_scored_tokens():
    assert not pad([sequence([1, 2], [])]).completion_mask_BT.any()


def test_an_empty_prompt_is_refused():
    with pytest.raises(ValueError, match="sequence 1 has an empty prompt"):
        pad([sequence([1], [2]), sequence([], [3])])


@given(st.sets(st.text(max_size=5), max_size=30), st.integers(), st.randoms())
def test_order_depends_on_the_keys_alone(keys, seed, random):
    keys = sorted(keys)
    other = list(keys)
    random.shuffle(other)
    first = [keys[i] for i in shuffled(keys, seed=seed, round_id=1, epoch=0)]
    assert first == [other[i] for i in shuffled(other, seed=seed, round_id=1, epoch=0)]
    assert sorted(first) == keys


def test_every_round_and_epoch_has_its_own_order():
    keys = [str(i) for i in range(50)]
    orders = {tuple(shuffled(keys, seed=s, round_id=r, epoch=e)) for s in (0, 1) for r in (0, 1) for e in (0, 1)}
    assert len(orders) == 8


def test_the_last_smaller_batch_is_kept():
    assert split(range(7), 3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert split([], 3) == []


@given(
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=80),
    max_tokens=st.integers(1, 4000),
    rows=st.sampled_from([1, 2]),
)
def test_microbatches_hold_everything_once_within_the_bound(lengths, max_tokens, rows):
    cuts = microbatches(range(len(lengths)), lengths, max_tokens=max_tokens, rows_per_item=rows)
    assert sorted(index for cut in cuts for index in cut) == list(range(len(lengths)))
    for cut in cuts:
        longest = max(lengths[i] for i in cut)
        assert len(cut) == 1 or rows * longest * len(cut) <= max_tokens
        assert rows * sum(longest - lengths[i] for i in cut) <= 256


def test_equal_lengths_share_one_pass():
    assert len(microbatches(range(64), [50] * 64, max_tokens=16384, rows_per_item=2)) == 1
