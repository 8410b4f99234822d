"""When a pair is settled, and on what."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.human.resolution import ending, quorum, settle, vote_share, wanted_labels
from judge.human.types import Rules

RULES = Rules(max_labels=3, max_skips=2)


@pytest.mark.parametrize(
    ("labels", "wanted", "outcome", "reason", "then_wanted"),
    [
        ([], 1, None, "", 1),
        (["a"], 1, "a", "", 1),
        (["both_bad"], 1, "both_bad", "", 1),
        (["a"], 2, None, "", 2),
        (["a", "a"], 2, "a", "", 2),
        (["a", "b"], 2, None, "", 3),
        (["a", "tie"], 2, None, "", 3),
        (["a", "b", "b"], 2, "b", "", 3),
        (["a", "b", "tie"], 2, "abstain", "no_majority", 3),
        (["a", "b"], 1, None, "", 3),  # a lifted quarantine brought the second one back
    ],
)
def test_a_strict_majority_settles_and_disagreement_asks_once_more(labels, wanted, outcome, reason, then_wanted):
    settled = settle(labels, 0, wanted, RULES)
    assert (settled.outcome, settled.reason, settled.labels_wanted) == (outcome, reason, then_wanted)


def test_skips_give_a_pair_up_only_where_labels_do_not_settle_it():
    assert settle([], 1, 1, RULES).outcome is None
    assert settle([], 2, 1, RULES).reason == "all_skipped"
    assert settle(["a"], 2, 2, RULES).reason == "all_skipped"
    assert settle(["a"], 2, 1, RULES).outcome == "a"


def test_an_administrators_word_goes_before_votes():
    assert settle(["a", "a"], 0, 2, RULES, "tie").outcome == "tie"


@given(st.lists(st.sampled_from(["a", "b", "tie", "both_bad"]), max_size=7), st.integers(1, 3), st.randoms())
def test_the_order_of_labels_does_not_matter_and_a_majority_is_one(labels, wanted, random):
    settled = settle(labels, 0, wanted, Rules(max_labels=5))
    random.shuffle(labels)
    assert settle(labels, 0, wanted, Rules(max_labels=5)) == settled
    if settled.outcome in {"a", "b", "tie", "both_bad"}:
        assert 2 * labels.count(settled.outcome) > len(labels) >= wanted
    elif settled.outcome is None:
        assert len(labels) < settled.labels_wanted <= 5


def test_the_double_share_is_drawn_by_key():
    rules = Rules(overlap=2, double_share=0.25)
    wanted = [wanted_labels(f"key-{index}", rules) for index in range(4000)]
    assert set(wanted) == {2, 3}
    assert 0.22 < wanted.count(3) / 4000 < 0.28
    assert wanted == [wanted_labels(f"key-{index}", rules) for index in range(4000)]


def test_votes_for_neither_count_half_and_one_vote_is_no_probability():
    assert vote_share(["a"]) is None
    assert vote_share(["a", "skip"]) is None
    assert vote_share(["a", "b", "b"]) == pytest.approx(1 / 3)
    assert vote_share(["a", "tie", "both_bad", "a"]) == 0.75


def test_a_quorum_is_the_ceiling_of_the_share_without_the_dust_of_fractions():
    assert quorum(10, 0.7) == 7
    assert quorum(11, 0.7) == 8
    assert quorum(0, 1.0) == 0


def test_a_round_ends_by_its_quorum_or_when_nothing_is_left():
    def end(resolved, given_up, share=1.0):
        return ending(num_tasks=4, num_resolved=resolved, num_given_up=given_up, seal_share=share)

    assert [end(3, 0), end(4, 0), end(3, 1), end(2, 0, 0.5)] == ["", "quorum", "exhausted", "quorum"]
