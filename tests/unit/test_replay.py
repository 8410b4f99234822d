"""Pairs of older rounds among the fresh ones: how many, which ones, and always the same."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.pairs import TokenPair
from learner.replay import replayed
from rollout.types import TokenSequence

SIDE = TokenSequence(prompt_ids=np.zeros(1, np.int32), completion_ids=np.zeros(1, np.int32))
OLDER = [TokenPair(pair_id=f"p{n}", content_hash=f"c{n}", chosen=SIDE, rejected=SIDE) for n in range(100)]


def ids(pairs):
    return [pair.pair_id for pair in pairs]


@pytest.mark.parametrize(("share", "num"), [(0.0, 0), (0.25, 10), (0.5, 30), (0.9, 100)])
def test_the_share_is_that_of_all_pairs_trained(share, num):
    assert len(replayed(OLDER, num_fresh=30, share=share, seed=1, round_id=2)) == num


def test_a_round_without_fresh_pairs_replays_none():
    assert replayed(OLDER, num_fresh=0, share=0.5, seed=1, round_id=2) == []


@given(st.permutations(OLDER))
def test_which_ones_depends_on_seed_and_round_and_not_on_their_order(shuffled):
    first = ids(replayed(OLDER, num_fresh=10, share=0.5, seed=1, round_id=2))
    assert ids(replayed(shuffled, num_fresh=10, share=0.5, seed=1, round_id=2)) == first
    assert ids(replayed(OLDER, num_fresh=10, share=0.5, seed=1, round_id=3)) != first
    assert ids(replayed(OLDER, num_fresh=10, share=0.5, seed=2, round_id=2)) != first
