"""Which answers become a pair: pure, symmetric in the answers, and every other case has its reason."""

import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.config import FunctionJudge
from judge.pairing import comparisons, reasons_of, values_of
from judge.pairing_config import PairingConfig
from judge.pairs import pairs_or_reason
from judge.selection import Choice, select
from judge.types import PreferencePair, Score, Verdict
from tests.support.tiny_groups import make_completion, make_group

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
PLACE = {"run_id": "run", "round_id": 2, "policy_version": 1}


def scores_of(group, values, reason="judge_not_finite"):
    return [
        Score(
            prompt_id=group.prompt.prompt_id,
            index=index,
            value=value,
            judge_id="j",
            source="function",
            reason="" if value is not None else reason,
        )
        for index, value in enumerate(values)
    ]


def verdict(a, b, outcome, p_a=None, reason=""):
    return Verdict(prompt_id="p", a=a, b=b, outcome=outcome, p_a=p_a, judge_id="j", source="function", reason=reason)


def pair_or_reason(*args, **kwargs):
    """What is selected one at a time has one row."""
    found = pairs_or_reason(*args, **kwargs)
    if isinstance(found, str):
        return found
    (pair,) = found
    return pair


def choose(*args):
    selection = select(*args)
    return selection.choices[0] if selection.choices else selection.reason


def pair_of(texts, values, **pairing):
    group = make_group(texts)
    return pair_or_reason(group, scores_of(group, values), PairingConfig(**pairing), **PLACE)


@given(left=texts, right=texts, values=st.tuples(finite | st.none(), finite | st.none()), min_margin=st.floats(0, 10))
def test_swapping_the_two_answers_flips_the_pair(left, right, values, min_margin):
    one = pair_of([left, right], values, min_margin=min_margin)
    other = pair_of([right, left], values[::-1], min_margin=min_margin)
    if isinstance(one, str):
        assert other == one
        return
    # The same answer is preferred whatever its place, and so is everything else that the learner sees.
    assert (other.chosen, other.rejected) == (one.chosen, one.rejected)
    assert one.chosen == (left if values[0] > values[1] else right)
    assert (other.margin, other.score_chosen, other.content_hash) == (one.margin, one.score_chosen, one.content_hash)
    assert np.array_equal(other.chosen_ids, one.chosen_ids)
    # The same two places with the scores exchanged: chosen and rejected change their roles.
    flipped = pair_of([left, right], values[::-1], min_margin=min_margin)
    assert (flipped.chosen, flipped.rejected) == (one.rejected, one.chosen)
    assert flipped.content_hash != one.content_hash
    assert flipped.pair_id == one.pair_id == other.pair_id


@given(p=st.floats(0, 1), texts=st.tuples(texts, texts))
def test_swapping_the_two_sides_of_a_verdict_flips_the_pair(p, texts):
    outcomes = {"a": "b", "b": "a", "tie": "tie"}
    outcome = "a" if p > 0.5 else "b" if p < 0.5 else "tie"
    group = make_group(texts)
    one = pair_or_reason(group, [verdict(0, 1, outcome, p)], PairingConfig(), **PLACE)
    swapped = pair_or_reason(group, [verdict(1, 0, outcome, p)], PairingConfig(), **PLACE)
    exchanged = pair_or_reason(group, [verdict(0, 1, outcomes[outcome])], PairingConfig(), **PLACE)
    if isinstance(one, str):
        assert swapped == one == exchanged
        return
    assert (swapped.chosen, swapped.rejected) == (one.rejected, one.chosen)
    assert (exchanged.chosen, exchanged.rejected) == (one.rejected, one.chosen)
    assert one.p_chosen == swapped.p_chosen == max(p, 1 - p)
    assert exchanged.p_chosen is None
    assert one.margin == swapped.margin


@given(values=st.lists(finite | st.none(), max_size=6), min_margin=st.floats(0, 3))
def test_the_pair_is_the_best_against_the_worst_of_what_was_judged(values, min_margin):
    group = make_group([f"answer {index}" for index in range(len(values))])
    judged = {index: value for index, value in enumerate(values) if value is not None}
    assert values_of(scores_of(group, values)) == judged
    choice = choose(group, judged, PairingConfig(min_margin=min_margin))
    if len(judged) < 2:
        assert choice == "too_few"
    elif max(judged.values()) == min(judged.values()):
        assert choice == "tie"
    elif max(judged.values()) - min(judged.values()) < min_margin:
        assert choice == "below_margin"
    else:
        assert judged[choice.chosen] == max(judged.values()) == choice.value_chosen
        assert judged[choice.rejected] == min(judged.values()) == choice.value_rejected
        assert 0 < choice.margin <= sys.float_info.max


def test_the_lowest_index_among_equals_is_taken():
    group = make_group(["a", "b", "c", "d", "e"])
    choice = choose(group, {4: 0.0, 3: 1.0, 2: 0.0, 1: 1.0, 0: 0.5}, PairingConfig())
    assert choice == Choice(chosen=1, rejected=2, value_chosen=1.0, value_rejected=0.0, margin=1.0)


def test_the_margin_may_be_exactly_the_smallest_allowed():
    assert isinstance(pair_of(["a", "b"], [1.0, 0.5], min_margin=0.5), PreferencePair)
    assert pair_of(["a", "b"], [1.0, 0.5], min_margin=0.75) == "below_margin"


def test_equal_texts_or_tokens_are_duplicates_even_where_the_judge_tells_them_apart():
    assert pair_of(["same", "same"], [1.0, 0.0]) == "duplicate"
    assert pair_of(["same", "same", "same"], [1.0, 1.0, 1.0]) == "duplicate"
    assert pair_of(["same", "same", "other"], [1.0, 1.0, 1.0]) == "tie"
    group = make_group(["a", "b"])
    tokens = group.completions[0].token_ids
    group = replace(group, completions=(group.completions[0], make_completion(1, "b", token_ids=tokens)))
    assert pair_or_reason(group, scores_of(group, [1.0, 0.0]), PairingConfig(), **PLACE) == "duplicate"


def test_the_reason_is_the_judges_where_the_judge_left_too_few():
    assert pair_of(["a"], [1.0]) == "too_few"
    assert pair_of([], []) == "too_few"
    assert pair_of(["a", "b"], [1.0, None]) == "judge_not_finite"
    group = make_group(["a", "b", "c"])
    answers = [verdict(0, 1, "abstain", reason="refused"), verdict(0, 2, "abstain", reason="judge_timeout")]
    assert pair_or_reason(group, answers, PairingConfig(), **PLACE) == "judge_timeout"
    assert pair_or_reason(group, [*answers, answers[0]], PairingConfig(), **PLACE) == "refused"
    assert reasons_of([*answers, answers[0], verdict(1, 2, "a")]) == {"refused": 2, "judge_timeout": 1}


def test_verdicts_count_by_mean_win_probability_and_abstentions_nowhere():
    answers = [
        verdict(0, 1, "a", 0.75),
        verdict(0, 2, "abstain", reason="refused"),
        verdict(1, 2, "tie", 0.5),
        verdict(2, 3, "b"),
        verdict(1, 3, "both_bad"),
    ]
    assert values_of(answers) == {0: 0.75, 1: pytest.approx(1.25 / 3), 2: 0.25, 3: 0.75}


@given(p=st.floats(0, 1), num=st.integers(3, 6))
def test_a_cycle_of_equal_preferences_is_a_tie_whatever_the_rounding(p, num):
    outcome = "a" if p > 0.5 else "b" if p < 0.5 else "tie"
    answers = [verdict(index, (index + 1) % num, outcome, p) for index in range(num)]
    group = make_group([f"answer {index}" for index in range(num)])
    assert choose(group, values_of(answers), PairingConfig()) == "tie"


def test_a_pair_carries_what_was_sampled():
    group = make_group(["good", "bad!"])
    long = replace(group.completions[1], finish_reason="length")
    group = replace(group, completions=(group.completions[0], long))
    pair = pair_or_reason(group, scores_of(group, [1.5, -1.0]), PairingConfig(), **PLACE)
    assert (pair.chosen, pair.rejected, pair.margin, pair.p_chosen) == ("good", "bad!", 2.5, None)
    assert (pair.score_chosen, pair.score_rejected) == (1.5, -1.0)
    assert (pair.chosen_truncated, pair.rejected_truncated) == (False, True)
    assert pair.prompt_ids is group.prompt_token_ids
    assert pair.chosen_ids is group.completions[0].token_ids
    assert pair.rejected_logps is group.completions[1].logps
    assert (pair.round_id, pair.policy_version, pair.outcome) == (2, 1, "chosen")


def test_the_pair_id_is_a_place_and_the_content_hash_is_the_tokens():
    group = make_group(["a", "b"])
    answers = scores_of(group, [1.0, 0.0])
    pair = pair_or_reason(group, answers, PairingConfig(), **PLACE)
    assert pair_of(["x", "y"], [1.0, 0.0]).pair_id == pair.pair_id
    assert pair_of(["x", "y"], [1.0, 0.0]).content_hash != pair.content_hash
    for place in ({"run_id": "other"}, {"round_id": 3}):
        moved = pair_or_reason(group, answers, PairingConfig(), **(PLACE | place))
        assert moved.pair_id != pair.pair_id
        assert moved.content_hash == pair.content_hash


def test_the_content_hash_knows_where_each_side_ends():
    def hash_of(*token_ids):
        group = make_group(["a", "b"])
        sides = tuple(make_completion(place, text, token_ids=ids) for place, (text, ids) in enumerate(token_ids))
        group = replace(group, completions=sides)
        return pair_or_reason(group, scores_of(group, [1.0, 0.0]), PairingConfig(), **PLACE).content_hash

    assert hash_of(("a", [1, 2]), ("b", [3])) != hash_of(("a", [1]), ("b", [2, 3]))
    assert hash_of(("a", [1, 2]), ("b", [3])) == hash_of(("x", [1, 2]), ("y", [3]))


@given(num=st.integers(0, 7), k=st.integers(1, 30))
def test_comparisons_are_distinct_ordered_and_as_many_as_asked_for(num, k):
    group = make_group([f"answer {index}" for index in range(num)])
    every = comparisons(group, FunctionJudge(target="a:b", comparisons="all"))
    assert every == [(a, b) for a in range(num) for b in range(a + 1, num)]
    assert comparisons(group, FunctionJudge(target="a:b", comparisons="anchor")) == [(0, b) for b in range(1, num)]
    some = FunctionJudge(target="a:b", comparisons="random_k", num_comparisons=k)
    drawn = comparisons(group, some)
    assert len(set(drawn)) == len(drawn) == min(k, len(every))
    assert set(drawn) <= set(every)
    assert comparisons(group, some) == drawn


@pytest.mark.parametrize(
    ("said", "outcome"),
    [
        (["both_bad"], "both_bad"),
        (["tie"], "tie"),
        (["both_bad", "tie"], "tie"),
        (["both_bad", "both_bad"], "both_bad"),
    ],
)
def test_a_kept_row_says_whether_both_were_bad(said, outcome):
    answers = [verdict(*([0, 1] if place % 2 == 0 else [1, 0]), one) for place, one in enumerate(said)]
    pair = pair_or_reason(make_group(["x", "y"]), answers, PairingConfig(keep_ties=True), **PLACE)
    assert (pair.outcome, pair.p_chosen) == (outcome, None)
    assert pair_or_reason(make_group(["x", "y"]), answers, PairingConfig(), **PLACE) == "tie"
