"""A function of the user becomes scores and verdicts; whatever it does wrong becomes a counted abstention."""

import asyncio
import math
import threading
import time
from fractions import Fraction

import numpy as np
import pytest
import torch

from judge.function import FunctionComparer, FunctionScorer
from judge.protocol import Question
from rollout.errors import UsageError
from tests.support.tiny_groups import make_group

GROUP = make_group(["yes", "no", "perhaps"], answer="yes", level=3)
HERE = "tests.unit.test_function_judge"


def scorer(function, *, timeout_s=5.0, settings=None):
    return FunctionScorer(function, judge_id="function:test", settings=settings or {}, timeout_s=timeout_s)


def comparer(function, *, timeout_s=5.0):
    return FunctionComparer(function, judge_id="function:test", settings={}, timeout_s=timeout_s)


async def reasons(function, **options):
    scores = await scorer(function, **options).score_group(GROUP)
    assert [score.index for score in scores] == [0, 1, 2]
    assert all((score.value is None) == bool(score.reason) for score in scores)
    return [score.reason for score in scores]


async def test_a_function_gets_trl_shaped_arguments_and_the_metadata_columns():
    seen = {}

    def score(prompts, completions, **columns):
        seen.update(prompts=prompts, completions=completions, columns=columns)
        return [1.0, 2, None]

    scores = await scorer(score).score_group(GROUP)
    assert seen["prompts"] == [[{"role": "user", "content": "why?"}]] * 3
    assert seen["completions"] == [[{"role": "assistant", "content": text}] for text in ("yes", "no", "perhaps")]
    assert seen["columns"] == {"answer": ["yes"] * 3, "level": [3] * 3}
    assert [(s.value, s.reason) for s in scores] == [(1.0, ""), (2.0, ""), (None, "abstained")]


async def test_a_function_gets_only_what_it_takes():
    def score(completions, answer, weight):
        return [weight * (c[0]["content"] == a) for c, a in zip(completions, answer, strict=True)]

    scores = await scorer(score, settings={"weight": 0.5}).score_group(GROUP)
    assert [score.value for score in scores] == [0.5, 0.0, 0.0]


async def test_async_functions_run_side_by_side():
    running, most = 0, 0

    async def score(completions, **columns):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        return [1.0] * len(completions)

    judge = scorer(score)
    await asyncio.gather(*(judge.score_group(GROUP) for _ in range(5)))
    assert most == 5


async def test_plain_functions_run_one_at_a_time_and_leave_the_loop_free():
    names = []

    def score(completions, **columns):
        names.append(threading.current_thread().name)
        return [1.0] * len(completions)

    judge = scorer(score)
    await asyncio.gather(*(judge.score_group(GROUP) for _ in range(5)))
    assert set(names) == {"judge"}


@pytest.mark.parametrize(
    "values", [np.ones(3), np.array([1, 2, 3]), torch.ones(3), (1, 2, 3), [True, np.bool_(False), Fraction(1, 3)]]
)
async def test_arrays_tensors_and_scalars_are_numbers(values):
    assert await reasons(lambda completions: values) == ["", "", ""]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1.0, math.nan, 2.0], ["", "judge_not_finite", ""]),
        ([1.0, math.inf, -math.inf], ["", "judge_not_finite", "judge_not_finite"]),
        ([1.0, 10**400, np.float32("nan")], ["", "judge_not_finite", "judge_not_finite"]),
        ([1.0, "2", [3.0]], ["", "judge_wrong_type", "judge_wrong_type"]),
        ([1.0, 2j, object()], ["", "judge_wrong_type", "judge_wrong_type"]),
        ([1.0], ["judge_wrong_count"] * 3),
        ([], ["judge_wrong_count"] * 3),
        ([1.0] * 4, ["judge_wrong_count"] * 3),
        (None, ["judge_wrong_type"] * 3),
        (1.0, ["judge_wrong_type"] * 3),
        ("abc", ["judge_wrong_type"] * 3),
        ({0: 1.0, 1: 2.0, 2: 3.0}, ["judge_wrong_type"] * 3),
        (torch.ones(3, 1), ["judge_wrong_type"] * 3),
        ([None] * 3, ["abstained"] * 3),
    ],
)
async def test_what_is_no_score_is_an_abstention_with_its_reason(values, expected):
    assert await reasons(lambda completions: values) == expected


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no message")


class Sulky(list):
    def __iter__(self):
        raise RuntimeError("not today")


async def cancels_itself(**columns):
    raise asyncio.CancelledError


async def exits(**columns):
    raise SystemExit(3)


async def stops(**columns):
    raise StopIteration


def raiser(error):
    def score(**columns):
        raise error

    return score


@pytest.mark.parametrize(
    "function",
    [
        *map(raiser, [ValueError("x"), Unprintable(), SystemExit(1), KeyboardInterrupt(), StopIteration()]),
        cancels_itself,
        exits,
        stops,
        lambda no_such_column: [1.0],
    ],
)
async def test_whatever_is_raised_is_counted_and_the_judge_goes_on(function):
    assert await reasons(function) == ["judge_raised"] * 3
    assert await reasons(lambda completions: [1.0, 2.0, 3.0]) == [""] * 3


async def test_a_list_that_raises_when_read_is_a_wrong_type():
    assert await reasons(lambda completions: Sulky([1.0, 2.0, 3.0])) == ["judge_wrong_type"] * 3


async def test_the_reason_comes_with_the_error_as_evidence():
    scores = await scorer(raiser(ValueError("no \ud800 such key"))).score_group(GROUP)
    assert scores[0].evidence == b"ValueError: no \\ud800 such key"


async def test_a_plain_function_that_hangs_is_given_up_and_the_others_still_get_their_time():
    release = threading.Event()
    calls = []

    def score(completions, **columns):
        calls.append(time.monotonic())
        if len(calls) == 1:
            release.wait(10)
        return [1.0] * len(completions)

    judge = scorer(score, timeout_s=0.2)
    results = await asyncio.gather(*(judge.score_group(GROUP) for _ in range(4)))
    release.set()
    assert [{score.reason for score in scores} for scores in results] == [{"judge_timeout"}, {""}, {""}, {""}]
    assert len(calls) == 4
    assert calls[-1] - calls[0] < 5.0  # they did not wait for the one that hangs


async def test_a_coroutine_that_hangs_is_cancelled():
    cancelled = []

    async def score(**columns):
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    assert await reasons(score, timeout_s=0.05) == ["judge_timeout"] * 3
    await asyncio.sleep(0)
    assert cancelled == [True]


async def test_slow_but_timely_calls_in_a_queue_do_not_time_out():
    def score(completions, **columns):
        time.sleep(0.1)
        return [1.0] * len(completions)

    judge = scorer(score, timeout_s=0.4)
    results = await asyncio.gather(*(judge.score_group(GROUP) for _ in range(6)))
    assert all(score.value == 1.0 for scores in results for score in scores)


async def test_changing_the_messages_in_place_changes_nothing_else():
    def score(prompts, completions):
        prompts[0].append(completions[0][0])
        prompts[0][0]["content"] = "changed"
        return [float(len(prompt)) for prompt in prompts]

    assert [score.value for score in await scorer(score).score_group(GROUP)] == [2.0, 1.0, 1.0]
    assert GROUP.prompt.messages == ({"role": "user", "content": "why?"},)


@pytest.mark.parametrize("name", ["prompts", "completions", "weight"])
async def test_a_metadata_column_named_like_an_argument_is_refused(name):
    group = make_group(["a", "b"], **{name: 1})
    with pytest.raises(UsageError, match=name):
        await scorer(lambda **columns: [1.0, 2.0], settings={"weight": 1}).score_group(group)


async def test_a_column_may_be_called_function_or_self():
    group = make_group(["a", "b"], **{"function": 1, "self": 2, "no identifier": 3})
    scores = await scorer(lambda **columns: columns["function"]).score_group(group)
    assert [score.value for score in scores] == [1.0, 1.0]


async def test_nobody_is_asked_about_nothing():
    def never(**columns):
        raise AssertionError

    assert await scorer(never).score_group(make_group([])) == []
    assert await comparer(never).judge_group(GROUP, []) == []


async def test_a_comparing_function_gives_probabilities():
    def compare(prompts, completions_a, completions_b, answer, **columns):
        assert len(prompts) == len(answer) == len(completions_b) == 5
        assert completions_b[1] == [{"role": "assistant", "content": "perhaps"}]
        return [1.0, 0.25, 0.5, None, 1.5]

    verdicts = await comparer(compare).judge_group(GROUP, [(0, 1), (0, 2), (1, 2), (1, 0), (2, 0)])
    assert [(v.a, v.b, v.outcome, v.p_a, v.reason) for v in verdicts] == [
        (0, 1, "a", 1.0, ""),
        (0, 2, "b", 0.25, ""),
        (1, 2, "tie", 0.5, ""),
        (1, 0, "abstain", None, "abstained"),
        (2, 0, "abstain", None, "judge_out_of_range"),
    ]


async def test_scores_compare_by_size_and_missing_scores_abstain():
    question = Question(group=GROUP, wanted=((0, 1), (1, 2), (2, 0)))
    [verdicts] = await scorer(lambda completions: [1.0, 1.0, math.nan]).judge([question])
    assert [(v.outcome, v.p_a, v.reason) for v in verdicts] == [
        ("tie", None, ""),
        ("abstain", None, "judge_not_finite"),
        ("abstain", None, "judge_not_finite"),
    ]
