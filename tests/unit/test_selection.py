"""Which pairs follow from values: the rules, the filters, and properties that hold for all of them together."""

import asyncio
import itertools
import statistics
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.config import FunctionJudge
from judge.pairing_config import PairingConfig
from judge.pairs import pairs_or_reason
from judge.selection import penalised, select, similarity
from judge.shards import read_pairs
from judge.types import PreferencePair, Score, Verdict
from judge.worker import JudgeWorker
from learner.pairs import trainable
from tests.support.tiny_groups import make_group, make_shard

PLACE = {"run_id": "run", "round_id": 2, "policy_version": 1}
small = st.integers(-3, 3).map(float)
words = st.text("ab", max_size=5)
configs = st.builds(
    PairingConfig,
    select=st.sampled_from(["max_min", "max_random", "mu_minus_2sigma", "all", "random"]),
    min_margin=st.sampled_from([0.0, 1.0, 2.5]),
    length_penalty=st.sampled_from([0.0, 400.0, 1500.0]),
    max_pairs_per_prompt=st.none() | st.integers(1, 3),
    max_similarity=st.none() | st.floats(0, 1),
    max_length_ratio=st.none() | st.floats(1, 3),
    truncated=st.sampled_from(["keep", "drop_rejected", "drop_any"]),
    keep_ties=st.booleans(),
)


@st.composite
def groups_with_scores(draw, max_size=6):
    answers = draw(st.lists(st.tuples(words, small | st.none(), st.booleans()), max_size=max_size))
    group = make_group([text for text, _, _ in answers], question=draw(st.sampled_from(["why?", "who?", "how?"])))
    cut = tuple(
        replace(one, finish_reason="length" if is_cut else "stop")
        for one, (_, _, is_cut) in zip(group.completions, answers, strict=True)
    )
    return replace(group, completions=cut), scores_of(group, [value for _, value, _ in answers])


def scores_of(group, values):
    return [
        Score(
            prompt_id=group.prompt.prompt_id,
            index=index,
            value=value,
            judge_id="j",
            source="function",
            reason="" if value is not None else "refused",
        )
        for index, value in enumerate(values)
    ]


def rows_of(texts, values, **pairing):
    group = make_group(texts)
    filtered = Counter()
    rows = pairs_or_reason(group, scores_of(group, values), PairingConfig(**pairing), num_filtered=filtered, **PLACE)
    return rows, dict(filtered)


@settings(deadline=None, max_examples=60)
@given(asked=groups_with_scores(), config=configs)
def test_whatever_is_configured_every_row_keeps_its_promises(asked, config):
    group, scores = asked
    filtered = Counter()
    rows = pairs_or_reason(group, scores, config, num_filtered=filtered, **PLACE)
    judged = {score.index: score.value for score in scores if score.value is not None}
    num_candidates = len(judged) * (len(judged) - 1) // 2 if config.select == "all" else int(len(judged) > 1)
    if isinstance(rows, str):
        assert rows
        assert not filtered
        return
    assert rows
    assert len(rows) + filtered.total() == num_candidates  # nothing is dropped without a count
    assert len(rows) <= (config.max_pairs_per_prompt or len(rows))
    assert len({row.pair_id for row in rows}) == len(rows)
    by_text = {one.text for one in group.completions}
    for row in rows:
        used = [penalised(score, text, config.length_penalty) for score, text in sides(row)]
        assert {row.chosen, row.rejected} <= by_text
        assert row.chosen != row.rejected
        if row.outcome == "tie":
            assert config.keep_ties
            assert (row.score_chosen, row.margin) == (row.score_rejected, 0.0)
            assert not trainable([row], max_length=None)[0]
        else:
            assert row.score_chosen > row.score_rejected  # no label against what the judge said
            assert row.margin == used[0] - used[1] >= config.min_margin
            assert row.margin > 0
            assert not (config.truncated != "keep" and row.rejected_truncated)
        assert not (config.truncated == "drop_any" and (row.chosen_truncated or row.rejected_truncated))
        if config.max_similarity is not None:
            assert similarity(row.chosen, row.rejected) <= config.max_similarity
        if config.max_length_ratio is not None:
            lengths = sorted((len(row.chosen), len(row.rejected)))
            assert lengths[1] <= config.max_length_ratio * lengths[0]


def sides(row):
    return [(row.score_chosen, row.chosen), (row.score_rejected, row.rejected)]


@settings(deadline=None, max_examples=60)
@given(asked=groups_with_scores(), config=configs, order=st.randoms(use_true_random=False))
def test_the_order_of_completions_and_of_answers_does_not_matter(asked, config, order):
    group, scores = asked
    shuffled = list(group.completions)
    order.shuffle(shuffled)
    mixed = list(scores)
    order.shuffle(mixed)
    one = pairs_or_reason(group, scores, config, **PLACE)
    other = pairs_or_reason(replace(group, completions=tuple(shuffled)), mixed, config, **PLACE)
    assert brief(one) == brief(other)


def brief(rows):
    return rows if isinstance(rows, str) else [(row.pair_id, row.content_hash, row.margin, row.outcome) for row in rows]


@settings(deadline=None, max_examples=60)
@given(texts=st.tuples(words, words), values=st.tuples(small, small), config=configs)
def test_swapping_two_answers_gives_the_same_pair_and_exchanging_their_values_turns_it(texts, values, config):
    config = config.model_copy(update={"keep_ties": False, "length_penalty": 0.0})
    one, _ = rows_of(texts, values, **config.model_dump())
    swapped, _ = rows_of(texts[::-1], values[::-1], **config.model_dump())
    exchanged, _ = rows_of(texts, values[::-1], **config.model_dump())
    if isinstance(one, str):
        assert one == swapped == exchanged
        return
    assert [(row.chosen, row.rejected) for row in one] == [(row.chosen, row.rejected) for row in swapped]
    assert [(row.chosen, row.rejected) for row in one] == [(row.rejected, row.chosen) for row in exchanged]


@settings(deadline=None, max_examples=60)
@given(p=st.sampled_from([0.1, 0.3, 0.5, 0.7, 0.9]), config=configs)
def test_swapping_the_sides_of_a_verdict_turns_the_pair(p, config):
    config = config.model_copy(update={"length_penalty": 0.0})
    group = make_group(["one", "two"])

    def rows(a, b):
        outcome = "a" if p > 0.5 else "b" if p < 0.5 else "tie"
        asked = Verdict(prompt_id="p", a=a, b=b, outcome=outcome, p_a=p, judge_id="j", source="llm")
        return pairs_or_reason(group, [asked], config, **PLACE)

    one, other = rows(0, 1), rows(1, 0)
    if isinstance(one, str):
        assert one == other
    elif p == 0.5:
        assert [(row.outcome, row.chosen, row.p_chosen) for row in (*one, *other)] == [("tie", "one", 0.5)] * 2
    else:
        assert (one[0].chosen, one[0].rejected) == (other[0].rejected, other[0].chosen)


@settings(deadline=None, max_examples=60)
@given(values=st.lists(st.floats(-1e300, 1e300), min_size=2, max_size=8))
def test_mu_minus_2sigma_rejects_the_value_nearest_to_it(values):
    rows, _ = rows_of([f"answer {place}" for place in range(len(values))], values, select="mu_minus_2sigma")
    if max(values) == min(values):
        assert rows == "tie"
        return
    scale = max(map(abs, values))
    scaled = [value / scale for value in values]
    target = statistics.fmean(scaled) - 2 * statistics.pstdev(scaled)
    (row,) = rows
    assert row.score_chosen == max(values)
    nearest = min(abs(one - target) for one, value in zip(scaled, values, strict=True) if value < max(values))
    assert abs(row.score_rejected / scale - target) == nearest


def test_mu_minus_2sigma_passes_over_an_outlier():
    values = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, -3.0]
    rows, _ = rows_of([str(value) for value in values], values, select="mu_minus_2sigma")
    target = statistics.fmean(values) - 2 * statistics.pstdev(values)  # about -1.98
    assert min(abs(value - target) for value in values) == abs(rows[0].score_rejected - target)
    assert rows[0].score_rejected == -3.0
    wide = [*values[:-1], -5.0, -9.0]
    rows, _ = rows_of([str(value) for value in wide], wide, select="mu_minus_2sigma")
    assert rows[0].score_rejected == -5.0


def test_max_random_takes_the_best_and_draws_by_the_prompt_alone():
    drawn = set()
    for number in range(40):
        group = make_group(["a", "b", "c", "d"], question=f"question {number}")
        choices = [
            select(group, dict(enumerate(values)), PairingConfig(select="max_random")).choices[0]
            for values in ([4.0, 3.0, 2.0, 1.0], [9.0, 1.0, 2.0, 3.0])
        ]
        assert {choice.chosen for choice in choices} == {0}
        assert choices[0].rejected == choices[1].rejected
        drawn.add(choices[0].rejected)
    assert drawn == {1, 2, 3}


def test_random_orders_the_two_drawn_by_their_values():
    seen = set()
    for number in range(60):
        group = make_group(["a", "b", "c"], question=f"question {number}")
        (choice,) = select(group, {0: 1.0, 1: 2.0, 2: 3.0}, PairingConfig(select="random")).choices
        assert choice.chosen > choice.rejected
        seen.add((choice.chosen, choice.rejected))
    assert seen == {(1, 0), (2, 0), (2, 1)}


def test_all_gives_every_pair_the_widest_first_and_the_cap_counts_the_rest():
    rows, filtered = rows_of(["a", "b", "c", "d"], [0.0, 1.0, 3.0, 3.0], select="all", min_margin=1.5)
    assert [(row.chosen, row.rejected, row.margin) for row in rows] == [
        ("c", "a", 3.0),
        ("d", "a", 3.0),
        ("c", "b", 2.0),
        ("d", "b", 2.0),
    ]
    assert filtered == {"below_margin": 1, "tie": 1}
    capped, filtered = rows_of(["a", "b", "c", "d"], [0.0, 1.0, 3.0, 3.0], select="all", max_pairs_per_prompt=1)
    assert [(row.chosen, row.pair_id) for row in capped] == [("c", rows[0].pair_id)]
    assert filtered == {"tie": 1, "over_cap": 4}


def test_a_prompt_without_a_row_stands_under_the_commonest_reason_alone():
    rows, filtered = rows_of(["a", "b", "c"], [1.0, 1.0, 1.5], select="all", min_margin=1.0)
    assert (rows, filtered) == ("below_margin", {})


def test_a_length_penalty_moves_the_choice_but_never_turns_a_label():
    texts = ["x" * 1000, "y" * 10, "z" * 20]
    plain, _ = rows_of(texts, [2.0, 1.5, 0.0])
    assert (plain[0].chosen[0], plain[0].margin) == ("x", 2.0)
    debiased, _ = rows_of(texts, [2.0, 1.5, 0.0], length_penalty=1.0)
    assert debiased[0].chosen[0] == "y"
    assert debiased[0].margin == pytest.approx(1.51)  # 1.5 - 0.01 against 0 - 0.02: the values that chose
    assert (debiased[0].score_chosen, debiased[0].score_rejected) == (1.5, 0.0)  # what the judge said
    assert rows_of(texts[:2], [2.0, 1.5], length_penalty=1.0) == ("length_reversed", {})
    assert rows_of(["xx", "x"], [1.0, 1.0], length_penalty=1.0) == ("tie", {})  # the judge's tie stays one


def test_each_filter_drops_what_it_names():
    assert rows_of(["a b c d e f", "a b c d e g"], [1.0, 0.0], max_similarity=0.5)[0] == "near_duplicate"
    assert isinstance(rows_of(["a b c d e f", "something else"], [1.0, 0.0], max_similarity=0.5)[0], list)
    assert rows_of(["aaaa", "b"], [1.0, 0.0], max_length_ratio=3.9)[0] == "length_ratio"
    assert rows_of(["aaaa", ""], [1.0, 0.0], max_length_ratio=100.0)[0] == "length_ratio"
    assert isinstance(rows_of(["aaaa", "b"], [1.0, 0.0], max_length_ratio=4.0)[0], list)


@pytest.mark.parametrize(
    ("truncated", "cut_chosen", "cut_rejected"),
    [("keep", True, True), ("drop_rejected", True, False), ("drop_any", False, False)],
)
def test_truncated_answers_are_dropped_as_configured(truncated, cut_chosen, cut_rejected):
    for cut in itertools.product([False, True], repeat=2):
        group = make_group(["good", "bad"])
        sides = tuple(
            replace(one, finish_reason="length" if is_cut else "stop")
            for one, is_cut in zip(group.completions, cut, strict=True)
        )
        group = replace(group, completions=sides)
        rows = pairs_or_reason(group, scores_of(group, [1.0, 0.0]), PairingConfig(truncated=truncated), **PLACE)
        allowed = (cut_chosen or not cut[0]) and (cut_rejected or not cut[1])
        assert isinstance(rows, list) == allowed
        assert allowed or rows == "truncated"


@given(left=words, right=words)
def test_similarity_is_symmetric_and_one_for_equal_texts(left, right):
    assert similarity(left, right) == similarity(right, left)
    assert 0.0 <= similarity(left, right) <= 1.0
    assert similarity(left, left) == 1.0


def test_similarity_is_the_share_of_common_trigrams():
    assert similarity("abcd", "abce") == 1 / 3
    assert similarity("ab", "cd") == 0.0
    assert similarity("", "") == 1.0


def ties(completions, **columns):
    return [1.0] * len(completions)


def test_kept_ties_are_rows_that_nobody_trains(tmp_path):
    settings = FunctionJudge(
        target="tests.unit.test_selection:ties", pairing=PairingConfig(select="all", keep_ties=True)
    )
    worker = JudgeWorker(settings=settings, run_dir=tmp_path, run_id="run")
    shard = make_shard(tmp_path, [make_group(["a", "b", "b"])])
    built = asyncio.run(worker.build(shard, verdict_dir="verdicts", pair_dir="pairs"))
    rows = read_pairs(tmp_path, built)
    assert [(row.outcome, row.chosen, row.rejected) for row in rows] == [("tie", "a", "b"), ("tie", "a", "b")]
    assert (built.num_pairs, built.num_unpaired, built.num_prompts) == (0, 2, 1)
    assert (dict(built.num_filtered), dict(built.rejected)) == ({"duplicate": 1}, {})
    assert trainable(rows, max_length=None) == ([], {"pair_unpaired": 2})


def test_the_pair_is_put_down_to_the_judge_that_compared_it():
    group = make_group(["a", "b", "c"])
    answers = [
        Verdict(prompt_id="p", a=a, b=b, outcome=outcome, p_a=None, judge_id=judge, source=source)
        for a, b, outcome, judge, source in [(0, 1, "tie", "cheap", "function"), (1, 2, "a", "dear", "llm")]
    ]
    rows = pairs_or_reason(group, answers, PairingConfig(), **PLACE)
    assert isinstance(rows[0], PreferencePair)
    assert (rows[0].chosen, rows[0].rejected, rows[0].judge_id, rows[0].source) == ("b", "c", "dear", "llm")
