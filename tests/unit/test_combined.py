"""Judges made of judges: what they combine, whom they ask, and who takes over."""

import asyncio
import json
import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from judge.backend import build
from judge.combined.cascade import build_cascade
from judge.combined.ensemble import build_ensemble
from judge.combined.fallback import with_fallback
from judge.config import CascadeBackend, EnsembleBackend, FunctionJudge
from judge.protocol import Context, Question, Scorer
from judge.types import FAILED_OVER
from rollout.errors import InfraError
from tests.support.tiny_groups import make_group
from tests.support.told_judges import ToldJudge, ToldScorer

ANY = {"kind": "function", "target": "a:b"}
told = st.floats(0, 1) | st.sampled_from(["a", "b", "tie", "both_bad", "refused"])
OPPOSITE = {"a": "b", "b": "a", "tie": "tie", "both_bad": "both_bad", "abstain": "abstain"}


def ensemble(*members, **settings):
    return build_ensemble(EnsembleBackend(judges=[ANY] * len(members), **settings), members)


def cascade(*members, **settings):
    return build_cascade(CascadeBackend(judges=[ANY] * len(members), **settings), members)


def ask(judge, *questions):
    return asyncio.run(judge.judge(questions))


def compared(judge, texts=("x", "y"), wanted=((0, 1),)):
    return ask(judge, Question(group=make_group(texts), wanted=wanted))[0]


def scored(judge, texts):
    (scores,) = asyncio.run(judge.score([make_group(texts)]))
    return [score.value if score.value is not None else score.reason for score in scores]


@pytest.mark.parametrize(
    ("combine", "expected"),
    [("mean", 2.0), ("worst_case", 1.0), ("mean_minus_std", 2.0 - 0.5 * math.sqrt(2 / 3))],
)
def test_scores_are_combined_as_named(combine, expected):
    members = [ToldScorer(str(value), {"x": value}) for value in (3.0, 1.0, 2.0)]
    judge = ensemble(*members, combine=combine, std_weight=0.5)
    assert isinstance(judge, Scorer)
    assert scored(judge, ["x"]) == [pytest.approx(expected)]


def test_only_members_that_scored_every_completion_count():
    """Else the second answer would win by the absence of the strict judge alone."""
    kind = ToldScorer("kind", {"x": 9.0, "y": 8.0})
    strict = ToldScorer("strict", {"x": 1.0, "y": "refused"})
    assert scored(ensemble(kind, strict, combine="mean"), ["x", "y"]) == [9.0, 8.0]
    assert scored(ensemble(kind, strict, combine="mean", min_judges=2), ["x", "y"]) == ["refused", "refused"]


def test_a_completion_that_nobody_scored_abstains_alone():
    members = [ToldScorer(name, {"x": 1.0, "y": 2.0, "z": reason}) for name, reason in [("k", "s"), ("l", "long")]]
    assert scored(ensemble(*members, min_judges=2), ["x", "y", "z"]) == [1.0, 2.0, "long"]


def test_evidence_holds_what_each_member_said():
    members = [ToldScorer("k", {"x": 1.0}), ToldScorer("l", {"x": "refused"})]
    ((score,),) = asyncio.run(ensemble(*members).score([make_group(["x"])]))
    assert json.loads(score.evidence) == [
        {"judge_id": "k", "value": 1.0, "counted": True},
        {"judge_id": "l", "value": None, "counted": False, "reason": "refused"},
    ]
    (verdict,) = compared(ensemble(ToldJudge("k", 0.75), ToldJudge("l", "b"), combine="mean"))
    assert json.loads(verdict.evidence) == [
        {"judge_id": "k", "outcome": "a", "p_a": 0.75},
        {"judge_id": "l", "outcome": "b", "p_a": None},
    ]


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=4))
def test_no_finite_scores_combine_to_what_is_not_finite(values):
    for combine in ("mean", "worst_case", "mean_minus_std"):
        members = [ToldScorer(str(place), {"x": value}) for place, value in enumerate(values)]
        (value,) = scored(ensemble(*members, combine=combine), ["x"])
        assert value == "judge_not_finite" or math.isfinite(value)
        if max(map(abs, values)) < 1e150 and value != "judge_not_finite":
            std = statistics.pstdev(values)
            expected = {
                "mean": statistics.fmean(values),
                "worst_case": min(values),
                "mean_minus_std": statistics.fmean(values) - std,
            }
            assert value == pytest.approx(expected[combine], rel=1e-9, abs=1e-9 * max(1.0, *map(abs, values)))


@given(
    opinions=st.lists(told, min_size=2, max_size=4),
    combine=st.sampled_from(["mean", "worst_case", "mean_minus_std", "majority"]),
)
def test_exchanging_the_answers_exchanges_the_combined_verdict(opinions, combine):
    def turned(opinion):
        return 1 - opinion if isinstance(opinion, float) else OPPOSITE.get(opinion, opinion)

    (one,) = compared(ensemble(*(ToldJudge(str(n), each) for n, each in enumerate(opinions)), combine=combine))
    (other,) = compared(
        ensemble(*(ToldJudge(str(n), turned(each)) for n, each in enumerate(opinions)), combine=combine)
    )
    if one.p_a is None or abs(one.p_a - 0.5) > 1e-12:  # 1 - p is rounded
        assert OPPOSITE[one.outcome] == other.outcome
    if one.p_a is not None:
        assert one.p_a == pytest.approx(1 - other.p_a)
        assert 0.0 <= one.p_a <= 1.0
    assert (one.outcome == "abstain") == all(opinion == "refused" for opinion in opinions)


@pytest.mark.parametrize(
    ("opinions", "expected"),
    [
        ((0.9, 0.6, "a"), ("a", 0.6)),  # a wins only as far as the least convinced says
        ((0.2, "b"), ("b", 0.2)),
        ((0.9, 0.4), ("tie", 0.5)),
        ((0.9, "tie"), ("tie", 0.5)),
        ((0.9, "refused"), ("a", 0.9)),
        (("both_bad", "both_bad"), ("both_bad", 0.5)),
    ],
)
def test_the_worst_case_of_verdicts_is_the_least_convinced(opinions, expected):
    (verdict,) = compared(ensemble(*(ToldJudge(str(n), each) for n, each in enumerate(opinions))))
    assert (verdict.outcome, pytest.approx(verdict.p_a)) == expected


@pytest.mark.parametrize(
    ("opinions", "expected"),
    [
        ((0.6, "a", "b"), "a"),
        (("a", "b"), "tie"),
        (("a", "b", "tie"), "tie"),
        (("tie", "tie", "a"), "tie"),
        (("both_bad", "both_bad", "b"), "both_bad"),
        (("a", "refused", "refused"), "abstain"),
    ],
)
def test_a_majority_counts_outcomes(opinions, expected):
    members = [ToldJudge(str(n), each) for n, each in enumerate(opinions)]
    (verdict,) = compared(ensemble(*members, combine="majority", min_judges=2))
    assert (verdict.outcome, verdict.p_a) == (expected, None)
    assert verdict.reason == ("refused" if expected == "abstain" else "")


def test_mean_minus_std_moves_towards_one_half_and_not_past_it():
    members = [ToldJudge("k", 0.9), ToldJudge("l", 0.7)]
    (verdict,) = compared(ensemble(*members, combine="mean_minus_std", std_weight=2.0))
    assert (verdict.outcome, verdict.p_a) == ("a", pytest.approx(0.6))
    (verdict,) = compared(ensemble(*members, combine="mean_minus_std", std_weight=20.0))
    assert (verdict.outcome, verdict.p_a) == ("tie", 0.5)


def test_scorers_and_comparers_mix_and_majority_is_of_comparisons():
    scorer = ToldScorer("k", {"x": 2.0, "y": 1.0})
    (verdict,) = compared(ensemble(scorer, ToldJudge("l", 0.5), combine="mean"))
    assert (verdict.outcome, verdict.p_a) == ("a", 0.75)
    judge = ensemble(scorer, scorer, combine="majority")
    assert not isinstance(judge, Scorer)
    assert compared(judge)[0].outcome == "a"


def test_an_ensemble_reports_names_starts_and_closes_its_members():
    members = [ToldScorer("k", {"x": 1.0}), ToldScorer("l", {"x": 1.0})]
    judge = ensemble(*members)
    asyncio.run(judge.start())
    assert [member.state for member in members] == ["started", "started"]
    scored(judge, ["x"])
    assert judge.report().counts == {"0/calls": 1, "1/calls": 1}
    assert judge.report().notices == ("k was here", "l was here")
    assert judge.judge_id.startswith("ensemble:worst_case(k, l)@")
    assert judge.judge_id != ensemble(*members, min_judges=2).judge_id
    asyncio.run(judge.close())
    assert [member.state for member in members] == ["closed", "closed"]


def test_a_member_that_cannot_start_lets_the_others_go():
    members = [ToldScorer("k", {}), ToldScorer("l", {})]

    async def fail():
        raise InfraError("no")

    members[1].start = fail
    with pytest.raises(InfraError):
        asyncio.run(ensemble(*members).start())
    assert members[0].state == "closed"


def test_a_failing_member_fails_the_ensemble_once_the_others_are_done():
    slow = ToldScorer("k", {"x": 1.0})
    ended = []
    score = slow.score

    async def slowly(groups):
        await asyncio.sleep(0.05)
        ended.append(True)
        return await score(groups)

    slow.score = slowly
    with pytest.raises(InfraError, match="gone"):
        scored(ensemble(slow, ToldScorer("l", InfraError("gone"))), ["x"])
    assert ended


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"kind": "ensemble", "judges": [ANY, ANY], "min_judges": 3}, "min_judges is 3, but there are 2"),
        ({"kind": "cascade", "judges": [ANY, ANY], "escalate": "disagree"}, "name a third"),
    ],
)
def test_settings_that_cannot_work_are_refused(section, complaint):
    with pytest.raises(ValidationError, match=complaint):
        (EnsembleBackend if section["kind"] == "ensemble" else CascadeBackend)(**section)


def test_a_cascade_asks_the_next_judge_only_where_the_first_is_unsure():
    first = ToldJudge("cheap", {"xy": 0.9, "xz": 0.6, "yz": 0.45})
    second = ToldJudge("dear", {"xz": 0.1, "yz": "b"})
    judge = cascade(first, second)
    verdicts = compared(judge, "xyz", ((0, 1), (0, 2), (1, 2)))
    assert [(v.a, v.b, v.outcome, v.judge_id) for v in verdicts] == [
        (0, 1, "a", "cheap"),
        (0, 2, "b", "dear"),
        (1, 2, "b", "dear"),
    ]
    assert second.asked == [[((0, 2), (1, 2))]]
    assert judge.report().counts == {"0/asked": 3, "1/asked": 2, "escalated": 2}
    assert judge.report().counts == {}


@pytest.mark.parametrize(
    ("opinion", "is_unsure"),
    [("a", False), ("b", False), ("both_bad", False), ("tie", True), ("refused", True), (0.8, False), (0.21, True)],
)
def test_what_counts_as_unsure(opinion, is_unsure):
    (verdict,) = compared(cascade(ToldJudge("cheap", opinion), ToldJudge("dear", 1.0)))
    assert verdict.judge_id == ("dear" if is_unsure else "cheap")


def test_at_most_a_share_goes_on_the_least_sure_first():
    texts = "uvwxyz"
    told = {"uv": 0.55, "wx": 0.5, "yz": 0.7, "uw": 0.95, "vx": "refused"}
    pairs = [(texts.index(a), texts.index(b)) for a, b in told]
    first, second = ToldJudge("cheap", told), ToldJudge("dear", 1.0)
    judge = cascade(first, second, max_share=0.4)
    verdicts = compared(judge, texts, tuple(pairs))
    assert [v.judge_id for v in verdicts] == ["cheap", "dear", "cheap", "cheap", "dear"]
    assert judge.report().counts == {"0/asked": 5, "1/asked": 2, "escalated": 2, "kept_unsure": 2}


def test_where_the_next_judge_abstains_the_earlier_answer_stands_and_is_counted():
    judge = cascade(ToldJudge("cheap", {"xy": 0.6, "xz": "refused"}), ToldJudge("dear", "no_label"))
    verdicts = compared(judge, "xyz", ((0, 1), (0, 2)))
    assert [(v.outcome, v.judge_id, v.reason) for v in verdicts] == [
        ("a", "cheap", ""),
        ("abstain", "dear", "no_label"),
    ]
    assert judge.report().counts["kept_unsure"] == 1


def test_a_comparison_goes_on_until_a_judge_is_sure():
    members = [ToldJudge("one", 0.6), ToldJudge("two", "refused"), ToldJudge("three", 0.55), ToldJudge("four", 0.1)]
    judge = cascade(*members)
    assert compared(judge)[0].judge_id == "four"
    assert judge.report().counts == {f"{place}/asked": 1 for place in range(4)} | {"escalated": 3}
    assert compared(cascade(members[0], ToldJudge("sure", 0.9), members[3]))[0].judge_id == "sure"


def test_differences_of_scores_become_probabilities_by_their_scale():
    first = ToldScorer("cheap", {"x": 3.0, "y": 0.0, "z": 2.9, "w": -9.0})
    second = ToldScorer("dear", {"x": 1.0, "z": 2.0})
    judge = cascade(first, second, score_scale=2.0)
    kept, gone = compared(judge, "xyzw", ((0, 1), (0, 2)))
    assert (kept.judge_id, kept.p_a) == ("cheap", pytest.approx(1 / (1 + math.exp(-1.5))))
    assert (gone.judge_id, gone.outcome, gone.p_a) == ("dear", "b", pytest.approx(1 / (1 + math.exp(0.5))))
    assert first.asked == [[["x", "y", "z"]]]  # w is in no comparison
    assert second.asked == [[["x", "z"]]]
    far = cascade(ToldScorer("cheap", {"x": 1e308, "y": -1e308}), second, score_scale=1e-300)
    assert compared(far)[0].p_a == 1.0


@pytest.mark.parametrize(
    ("escalate", "deciders"),
    [("disagree", ["two", "three", "three", "two", "three"]), ("either", ["two", "three", "three", "three", "three"])],
)
def test_the_third_judge_settles_what_the_first_two_differ_on(escalate, deciders):
    pairs = {"uv": (0.9, 0.95), "wx": (0.9, 0.2), "uw": ("tie", "a"), "vx": (0.6, 0.7), "ux": ("a", "refused")}
    texts = "uvwx"
    members = [ToldJudge(name, {key: two[n] for key, two in pairs.items()}) for n, name in enumerate(["one", "two"])]
    judge = cascade(*members, ToldJudge("three", 0.0), escalate=escalate)
    wanted = tuple((texts.index(a), texts.index(b)) for a, b in pairs)
    assert [v.judge_id for v in compared(judge, texts, wanted)] == deciders
    counts = judge.report().counts
    assert (counts["0/asked"], counts["1/asked"], counts["2/asked"]) == (5, 5, deciders.count("three"))


@given(
    opinions=st.lists(st.lists(told, min_size=3, max_size=3), min_size=1, max_size=6),
    share=st.floats(0.01, 1.0),
    escalate=st.sampled_from(["unsure", "disagree", "either"]),
)
def test_a_cascade_answers_each_comparison_once_and_keeps_its_budget(opinions, share, escalate):
    members = [ToldJudge(str(n), {f"{place}y": row[n] for place, row in enumerate(opinions)}) for n in range(3)]
    judge = cascade(*members, max_share=share, escalate=escalate)
    questions = [
        Question(group=make_group([str(place), "y"], question=f"q{place}"), wanted=((0, 1),))
        for place in range(len(opinions))
    ]
    verdicts = ask(judge, *questions)
    assert [[(v.prompt_id, v.a, v.b) for v in of] for of in verdicts] == [
        [(q.group.prompt.prompt_id, 0, 1)] for q in questions
    ]
    counts = judge.report().counts
    first = 1 if escalate == "unsure" else 2
    for level in range(first, 3):
        assert counts.get(f"{level}/asked", 0) <= share * len(opinions) + 1e-9
    assert counts.get("escalated", 0) == sum(counts.get(f"{level}/asked", 0) for level in range(first, 3))
    for (verdict,), row in zip(verdicts, opinions, strict=True):
        said = row[int(verdict.judge_id)]  # what stands is what that judge said
        assert verdict.p_a == said if isinstance(said, float) else verdict.outcome in (said, "abstain")


@pytest.mark.parametrize("reason", sorted(FAILED_OVER))
def test_a_prompt_that_failed_over_is_judged_afresh_as_a_whole(reason):
    first = ToldScorer("paid", {"x": 1.0, "y": reason, "u": 5.0, "v": "refused"})
    other = ToldScorer("free", {"x": -1.0, "y": -2.0})
    judge = with_fallback(first, other)
    assert isinstance(judge, Scorer)
    groups = [make_group(["x", "y"], question="one"), make_group(["u", "v"], question="two")]
    scores = asyncio.run(judge.score(groups))
    assert [[(s.value, s.judge_id) for s in of] for of in scores] == [
        [(-1.0, "free"), (-2.0, "free")],
        [(5.0, "paid"), (None, "paid")],  # a refusal is an answer of the judge's own
    ]
    assert other.asked == [[["x", "y"]]]
    report = judge.report()
    assert report.counts["failed_over"] == 1
    assert f"judge paid: {reason.replace('_', ' ')}, free takes over (first on 1 prompts)" in report.notices
    asyncio.run(judge.score(groups))
    again = judge.report()
    assert again.counts["failed_over"] == 1
    assert not any("takes over" in notice for notice in again.notices)


def test_where_the_first_judge_fails_altogether_the_other_takes_the_whole_call():
    judge = with_fallback(ToldJudge("paid", InfraError("circuit open")), ToldScorer("free", {"x": 1.0, "y": 2.0}))
    assert not isinstance(judge, Scorer)
    (verdict,) = compared(judge)
    assert (verdict.outcome, verdict.judge_id) == ("b", "free")
    assert any("endpoint failed (circuit open), free takes over" in notice for notice in judge.report().notices)
    with pytest.raises(InfraError, match="both"):
        compared(with_fallback(ToldJudge("paid", InfraError("one")), ToldJudge("free", InfraError("both"))))


def test_nothing_fails_over_where_nothing_failed():
    judge = with_fallback(ToldJudge("paid", 0.9), ToldJudge("free", InfraError("must not be asked")))
    assert compared(judge)[0].judge_id == "paid"
    assert "failed_over" not in judge.report().counts
    assert ask(judge) == []


def by_length(completions, **columns):
    return [float(len(completion[0]["content"])) for completion in completions]


def spent(completions, **columns):
    return [None] * len(completions)


def test_the_configuration_builds_them_nested(tmp_path):
    mine = {"kind": "function", "target": "tests.unit.test_combined:by_length"}
    inner = {"kind": "ensemble", "judges": [mine, mine], "combine": "mean"}
    config = FunctionJudge(target=mine["target"], fallback={"kind": "cascade", "judges": [inner, mine]})
    judge = build(config, Context(store_dir=tmp_path, salt="s"))
    asyncio.run(judge.start())
    assert compared(judge, ["xx", "y"])[0].outcome == "a"
    asyncio.run(judge.close())
