"""Two answers of which both are bad: two rows with a rejected side to KTO, a tie to losses of ties, else counted."""

import numpy as np
import pytest

from learner.pairs import Trainable, trainable
from tests.support.tiny_learner import one_round
from tests.support.tiny_pairs import make_pair, random_pairs
from tests.support.tiny_policy import make_tiny_policy

BAD = make_pair("bad", [7], [8, 9], [10], outcome="both_bad", chosen_logps=np.array([-1, -2], np.float32))


def test_kto_gets_two_rows_with_a_rejected_side():
    rows, rejected = trainable([BAD], max_length=None, rows=Trainable(one_sided=True))
    assert [row.chosen.completion_ids.tolist() for row in rows] == [[], []]
    assert [row.rejected.completion_ids.tolist() for row in rows] == [[8, 9], [10]]
    assert [row.sampled_rejected_logp for row in rows] == [-3, 0]
    assert len({row.pair_id for row in rows}) == len({row.content_hash for row in rows}) == 2
    assert rejected == {}


@pytest.mark.parametrize("ties", [False, True])
def test_losses_of_ties_take_it_as_one_and_others_do_not_take_it(ties):
    rows, rejected = trainable([BAD], max_length=None, rows=Trainable(ties=ties))
    assert ([row.tied for row in rows], rejected) == (([True], {}) if ties else ([], {"pair_unpaired": 1}))


def test_a_round_of_kto_makes_both_answers_less_likely(tmp_path):
    make_tiny_policy(tmp_path / "policies/v0000")
    pairs = [BAD, *random_pairs(3)]
    steps, update, _ = one_round(tmp_path, pairs, loss="kto", num_epochs=6, batch_pairs=8)
    assert update.num_pairs == 5
    assert steps[-1]["reward_rejected"] < 0
