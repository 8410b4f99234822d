"""Answers by themselves: which rows follow from values and verdicts, and that everything else is counted."""

import asyncio
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.config import FunctionJudge
from judge.pairing_config import PairingConfig
from judge.pairs import pairs_or_reason
from judge.shards import read_pairs
from judge.types import Score, Verdict
from judge.worker import JudgeWorker
from learner.pairs import Trainable, trainable
from orchestrator.config import parse_config
from rollout.errors import UsageError
from tests.support.tiny_groups import make_group, make_shard

PLACE = {"run_id": "run", "round_id": 2, "policy_version": 1}
THRESHOLDS = {"select": "unpaired", "desirable_from": 1.0, "undesirable_to": 0.0}


def rows_of(group, answers, **pairing):
    filtered = Counter()
    config = PairingConfig(**{**THRESHOLDS, **pairing})
    return pairs_or_reason(group, answers, config, num_filtered=filtered, **PLACE), dict(filtered)


def scores_of(group, values):
    about = {"prompt_id": group.prompt.prompt_id, "judge_id": "j", "source": "verifier"}
    return [Score(index=i, value=v, reason="" if v is not None else "refused", **about) for i, v in enumerate(values)]


def verdict(group, a, b, outcome, p_a=None):
    about = {"prompt_id": group.prompt.prompt_id, "judge_id": "people", "source": "human"}
    return Verdict(a=a, b=b, outcome=outcome, p_a=p_a, **about)


def labels(rows):
    return [(row.chosen, row.rejected) for row in rows]


def test_values_beyond_the_thresholds_are_labels_and_the_rest_is_counted():
    group = make_group(["good", "bad", "so so", "unjudged", "better", "good"])
    rows, filtered = rows_of(group, scores_of(group, [1.0, 0.0, 0.5, None, 3.0, 1.0]))
    assert labels(rows) == [("good", None), (None, "bad"), ("better", None)]
    assert filtered == {"undecided": 1, "duplicate": 1}
    good, bad, _ = rows
    assert (good.score_chosen, good.score_rejected, good.margin, good.outcome) == (1.0, None, None, "chosen")
    assert (bad.score_chosen, bad.score_rejected) == (None, 0.0)
    assert (good.rejected_ids, good.rejected_logps, bad.chosen_ids, bad.chosen_logps) == (None,) * 4
    assert (good.judge_id, good.source) == ("j", "verifier")
    assert len({row.pair_id for row in rows}) == len({row.content_hash for row in rows}) == 3


@pytest.mark.parametrize(
    ("values", "reason"),
    [([0.5, 0.5], "undecided"), ([None, None], "refused"), ([None], "refused"), ([], "too_few")],
)
def test_a_prompt_without_a_label_has_one_reason(values, reason):
    group = make_group([f"answer {i}" for i in range(len(values))])
    assert rows_of(group, scores_of(group, values)) == (reason, {})


def test_one_answer_is_enough():
    group = make_group(["alone"])
    assert labels(rows_of(group, scores_of(group, [0.0]))[0]) == [(None, "alone")]


def test_of_verdicts_the_wins_are_desirable_and_both_bad_is_a_loss_of_both():
    group = make_group(["w", "l", "x", "y", "t", "u"])
    said = [
        verdict(group, 0, 1, "a"),
        verdict(group, 2, 3, "both_bad"),
        verdict(group, 4, 5, "tie"),
        verdict(group, 0, 4, "abstain"),
    ]
    rows, filtered = rows_of(group, said)
    assert labels(rows) == [("w", None), (None, "l"), (None, "x"), (None, "y")]
    assert filtered == {"undecided": 2}
    assert {row.source for row in rows} == {"human"}
    assert all(row.outcome == "chosen" for row in rows)


def test_what_is_bad_beside_one_and_better_than_another_is_undecided():
    group = make_group(["a", "b", "c"])
    rows, filtered = rows_of(group, [verdict(group, 0, 1, "both_bad"), verdict(group, 0, 2, "a")])
    assert labels(rows) == [(None, "b"), (None, "c")]
    assert filtered == {"undecided": 1}


@pytest.mark.parametrize(
    ("truncated", "expected"),
    [
        ("keep", [("good", None), (None, "bad")]),
        ("drop_rejected", [("good", None)]),
        ("drop_any", "truncated"),
    ],
)
def test_answers_that_were_cut_are_dropped_where_asked_for(truncated, expected):
    group = make_group(["good", "bad"])
    cut = replace(group, completions=tuple(replace(one, finish_reason="length") for one in group.completions))
    rows, filtered = rows_of(cut, scores_of(cut, [1.0, 0.0]), truncated=truncated)
    assert (rows if isinstance(rows, str) else labels(rows)) == expected
    assert filtered == ({"truncated": 1} if truncated == "drop_rejected" else {})


@settings(deadline=None, max_examples=60)
@given(
    answers=st.lists(st.tuples(st.text("ab", max_size=3), st.integers(-1, 2).map(float) | st.none()), max_size=6),
    order=st.randoms(use_true_random=False),
)
def test_every_judged_answer_is_a_row_or_counted_whatever_their_order(answers, order):
    group = make_group([text for text, _ in answers])
    scores = scores_of(group, [value for _, value in answers])
    rows, filtered = rows_of(group, scores)
    mixed = list(group.completions)
    order.shuffle(mixed)
    again, _ = rows_of(replace(group, completions=tuple(mixed)), scores)
    assert (again if isinstance(again, str) else labels(again)) == (rows if isinstance(rows, str) else labels(rows))
    judged = [value for _, value in answers if value is not None]
    if isinstance(rows, str):
        assert not [value for value in judged if value in (-1.0, 0.0, 1.0, 2.0)]
        return
    assert len(rows) + sum(filtered.values()) == len(judged)
    for row in rows:
        assert (row.chosen is None) != (row.rejected is None)
        assert row.score_chosen is None or row.score_chosen >= 1.0
        assert row.score_rejected is None or row.score_rejected <= 0.0
    assert trainable(rows, max_length=None) == ([], {"pair_unpaired": len(rows)})
    assert len(trainable(rows, max_length=None, rows=Trainable(one_sided=True))[0]) == len(rows)


def by_word(completions, **columns):
    values = {"good": 1.0, "bad": 0.0, "middling": 0.5}
    return [values.get(completion[0]["content"]) for completion in completions]


def test_a_judge_writes_them_and_they_are_read_back(tmp_path):
    judge = FunctionJudge(target=f"{__name__}:by_word", pairing=PairingConfig(**THRESHOLDS))
    groups = [make_group(["good", "bad", "middling", "?"]), make_group(["middling"], question="who?")]
    worker = JudgeWorker(settings=judge, run_dir=tmp_path, run_id="run")
    shard = make_shard(tmp_path, groups)
    built = asyncio.run(worker.build(shard, verdict_dir="rounds/0000/verdicts", pair_dir="rounds/0000/pairs"))
    assert (built.num_pairs, built.num_unpaired, built.num_prompts) == (0, 2, 2)
    assert built.rejected == {"undecided": (groups[1].prompt.prompt_id,)}
    assert (built.num_filtered, built.num_abstained) == ({"undecided": 1}, {"abstained": 1})
    assert labels(read_pairs(tmp_path, built)) == [("good", None), (None, "bad")]


@pytest.mark.parametrize(
    ("pairing", "words"),
    [
        ({"select": "unpaired"}, "needs undesirable_to below desirable_from, got None and None"),
        ({**THRESHOLDS, "undesirable_to": 1.0}, "needs undesirable_to below desirable_from, got 1.0 and 1.0"),
        ({**THRESHOLDS, "select": "max_min"}, "are for select: unpaired, got select: max_min"),
        ({**THRESHOLDS, "min_margin": 1.0}, "min_margin is about pairs and has no effect with select: unpaired"),
        ({**THRESHOLDS, "keep_ties": True}, "keep_ties is about pairs"),
        (THRESHOLDS, "learner.loss sigmoid learns from pairs alone; choose loss kto"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(pairing, words):
    tree = {
        "policy": {"path": "x"},
        "prompts": {"path": "p"},
        "judge": {"target": "m:f", "pairing": pairing},
    }
    with pytest.raises(UsageError) as refused:
        parse_config(tree, origin="f.yaml")
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
    assert parse_config(
        {**tree, "judge": {"target": "m:f", "pairing": THRESHOLDS}, "learner": {"loss": "kto"}}, origin=""
    )
