"""An answer that some sidecar holds is not scored again, and the count says so."""

import numpy as np
import pytest

from learner.pairs import trainable
from learner.reference import with_reference
from learner.reference_cache import ReferenceCache, token_key
from learner.sidecar import Sidecar
from rollout.errors import IntegrityError
from rollout.shards import read_json, write_json
from rollout.types import TokenSequence
from tests.support.tiny_learner import base_of, learn, worker
from tests.support.tiny_pairs import make_pair, random_pairs, write_pair_shard
from tests.support.tiny_policy import make_tiny_policy


class Scorer:
    """Counts the rows that it is asked for; each token's value is the number of the call."""

    def __init__(self):
        self.asked = []

    def __call__(self):
        def score(rows):
            self.asked.append(len(rows))
            return [np.full(len(row.completion_ids), len(self.asked), np.float32) for row in rows]

        return score


def tokens_of(pairs):
    return trainable(pairs, max_length=None)[0]


def rows_of(pairs, folder, *, earlier=(), reference="base", scorer=None):
    scorer, cache = scorer or Scorer(), ReferenceCache(earlier)
    rows = with_reference(tokens_of(pairs), folder=folder, reference_sha256=reference, score=scorer, cache=cache)
    return rows, scorer.asked, cache.num_reused


def test_rows_of_an_earlier_round_are_read_and_only_the_others_are_scored(tmp_path):
    old, new = random_pairs(3), random_pairs(2, seed=1)
    scorer = Scorer()
    rows_of(old, tmp_path / "0", scorer=scorer)
    rows, asked, num_reused = rows_of([*new, *old], tmp_path / "1", earlier=[tmp_path / "0"], scorer=scorer)
    assert (asked, num_reused) == ([6, 4], 6)
    assert [float(row.ref_chosen_logps[0]) for row in rows] == [2, 2, 1, 1, 1]


def test_the_same_answer_in_several_pairs_of_a_round_is_scored_once(tmp_path):
    pairs = [make_pair("a", [7], [8, 9], [10]), make_pair("b", [7], [8, 9], [11]), make_pair("c", [8], [8, 9], [10])]
    rows, asked, num_reused = rows_of(pairs, tmp_path)
    assert (asked, num_reused) == ([5], 1)
    assert [len(row.ref_chosen_logps) for row in rows] == [2, 2, 2]


def test_another_reference_shares_nothing(tmp_path):
    rows_of(random_pairs(3), tmp_path / "0")
    found = rows_of(random_pairs(3), tmp_path / "1", earlier=[tmp_path / "0"], reference="other")
    assert found[1:] == ([6], 0)


def test_a_resumed_round_counts_what_the_undisturbed_one_counted(tmp_path):
    rows_of(random_pairs(3), tmp_path / "0")
    first = rows_of(random_pairs(3), tmp_path / "1", earlier=[tmp_path / "0"])
    again = rows_of(random_pairs(3), tmp_path / "1")
    assert first[1:] == again[1:] == ([], 6)


def test_where_the_prompt_ends_is_part_of_the_key():
    rows = [
        TokenSequence(prompt_ids=np.array(prompt, np.int32), completion_ids=np.array(answer, np.int32))
        for prompt, answer in (([1], [2, 3]), ([1, 2], [3]), ([1, 2, 3], []))
    ]
    assert len({token_key(row) for row in rows}) == 3


def test_an_altered_sidecar_is_refused_by_name_only_where_it_is_needed(tmp_path):
    rows_of(random_pairs(3), tmp_path / "0")
    file = tmp_path / "0/00000.arrow"
    data = bytearray(file.read_bytes())
    place = data.index(np.full(2, 1, np.float32).tobytes())  # values, not keys
    data[place] ^= 1
    file.write_bytes(data)
    assert rows_of(random_pairs(3, seed=1), tmp_path / "1", earlier=[tmp_path / "0"])[1] == [6]
    with pytest.raises(IntegrityError, match=r"0/00000\.arrow was truncated or altered"):
        rows_of(random_pairs(3), tmp_path / "2", earlier=[tmp_path / "0"])


def test_a_sidecar_from_before_answers_had_keys_is_made_again(tmp_path):
    rows_of(random_pairs(3), tmp_path / "0")
    manifest = tmp_path / "0/00000.json"
    old = read_json(manifest, Sidecar)
    write_json(manifest, type(old)(**{**vars(old), "schema_version": 1}), Sidecar)
    assert rows_of(random_pairs(3), tmp_path / "1", earlier=[tmp_path / "0"])[1] == [6]
    assert rows_of(random_pairs(3), tmp_path / "0")[1] == [6]


@pytest.mark.parametrize(("reference", "num_reused"), [("base", 8), ("round_start", None)])
def test_replayed_pairs_are_not_scored_again_under_a_frozen_reference(tmp_path, reference, num_reused):
    make_tiny_policy(tmp_path / "policies/v0000")
    shards = [write_pair_shard(tmp_path, random_pairs(4, seed=r, round_id=r), round_id=r) for r in (0, 1)]
    learner = worker(tmp_path, reference=reference, replay_share=0.5)
    _, update = learn(learner, round_id=0, shards=shards[:1], policy_in=base_of(tmp_path))
    assert "num_reference_reused" not in update.metrics
    _, update = learn(learner, round_id=1, shards=shards, policy_in=update.policy_out)
    assert update.metrics["num_replayed"] == 4
    assert update.metrics.get("num_reference_reused") == num_reused


def test_a_reference_that_is_not_needed_is_not_loaded(tmp_path, monkeypatch):
    make_tiny_policy(tmp_path / "policies/v0000")
    learner = worker(tmp_path)
    shards = [write_pair_shard(tmp_path, random_pairs(4), round_id=r) for r in (0, 1)]
    _, update = learn(learner, round_id=0, shards=shards[:1], policy_in=base_of(tmp_path))
    monkeypatch.setattr("learner.residence.load_model", None)
    _, update = learn(learner, round_id=1, shards=shards[1:], policy_in=update.policy_out)
    assert update.metrics["num_reference_reused"] == 8
