"""Pairs beyond the context are dropped and counted, or lose their end on request, as in TRL."""

import numpy as np

from learner.pairs import trainable
from tests.support.tiny_learner import one_round
from tests.support.tiny_pairs import make_pair, random_pairs
from tests.support.tiny_policy import make_tiny_policy

EOS = 2
LOGPS = np.array([-1, -2, -4, -8, -16], np.float32)
LONG = make_pair("long", [7, 8], [10, 11, 12, 13, EOS], [20, EOS], chosen_logps=LOGPS)


def cut(*pairs, max_length):
    return trainable(pairs, max_length=max_length, too_long="truncate")


def test_an_answer_loses_its_end_and_its_eos_and_the_prompt_stays():
    (pair,), rejected = cut(LONG, max_length=5)
    assert pair.chosen.prompt_ids.tolist() == [7, 8]
    assert (pair.chosen.completion_ids.tolist(), pair.rejected.completion_ids.tolist()) == ([10, 11, 12], [20, EOS])
    assert (pair.is_cut, rejected) == (True, {})
    assert pair.content_hash != LONG.content_hash
    assert len({cut(LONG, max_length=n)[0][0].content_hash for n in (4, 5, 6)}) == 3


def test_sampled_logps_are_those_of_the_tokens_that_are_left():
    (pair,), _ = cut(LONG, max_length=5)
    assert pair.sampled_chosen_logp == -7


def test_a_pair_that_fits_is_left_alone():
    (pair,), _ = cut(LONG, max_length=7)
    assert (pair.is_cut, pair.content_hash, pair.length) == (False, LONG.content_hash, 7)


def test_without_room_for_an_answer_or_without_a_difference_a_pair_is_counted():
    same = make_pair("same", [7], [10, 11, 12], [10, 11, 13])
    assert cut(LONG, max_length=2) == ([], {"pair_too_long": 1})
    assert cut(same, max_length=3) == ([], {"pair_equal_when_cut": 1})
    assert trainable([LONG], max_length=5) == ([], {"pair_too_long": 1})


def test_it_is_the_cut_that_trl_makes():
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    example = {"prompt_ids": [7, 8], "chosen_ids": LONG.chosen_ids.tolist(), "rejected_ids": LONG.rejected_ids.tolist()}
    batch = DataCollatorForPreference(pad_token_id=0, max_length=5)([example])
    (pair,), _ = cut(LONG, max_length=5)
    for row, side in enumerate((pair.chosen, pair.rejected)):
        theirs = batch["input_ids"][row][batch["attention_mask"][row].bool()].tolist()
        assert theirs == [*side.prompt_ids.tolist(), *side.completion_ids.tolist()]
        assert int(batch["completion_mask"][row].sum()) == len(side.completion_ids)


def test_a_round_counts_what_it_cut(tmp_path):
    make_tiny_policy(tmp_path / "policies/v0000")
    pairs = [*random_pairs(3), make_pair("long", [7] * 10, [8] * 40, [9])]
    _, update, _ = one_round(tmp_path, pairs, max_length=30, too_long="truncate")
    assert (update.num_pairs, update.metrics["num_truncated"]) == (4, 1)
    assert "num_rejected_pair_too_long" not in update.metrics
    _, update, _ = one_round(tmp_path, pairs, max_length=30)
    assert (update.num_pairs, update.metrics["num_rejected_pair_too_long"]) == (3, 1)
    assert "num_truncated" not in update.metrics
