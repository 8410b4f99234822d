"""Judges that are classes of the user, held to their word: each answer asked for, once, and usable, or a reason."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar, get_args

from judge.calls import Caller
from judge.per_group import GroupJudge, GroupScorer
from judge.types import Outcome, Score, Source, Verdict
from judge.values import as_probability, read_number, split
from rollout.errors import DataError
from rollout.types import CompletionGroup

A = TypeVar("A", Score, Verdict)


class _Checked:
    def __init__(self, instance: Any, *, judge_id: str, timeout_s: float) -> None:
        self.judge_id = judge_id
        self.source: Source = getattr(instance, "source", "function")
        self._instance = instance
        self._caller = Caller(timeout_s=timeout_s)


class CheckedScorer(_Checked, GroupScorer):
    """A class with `score(group) -> list[Score]`, plain or async."""

    async def score_group(self, group: CompletionGroup) -> list[Score]:
        """One score a completion, in the order of the group."""
        if not group.completions:
            return []
        blanks = [
            Score(
                prompt_id=group.prompt.prompt_id,
                index=completion.index,
                value=None,
                judge_id=self.judge_id,
                source=self.source,
            )
            for completion in group.completions
        ]
        try:
            given = await self._caller.call(self._instance.score, group)
            scores = _in_order(given, Score, lambda score: score.index, blanks)
        except DataError as failure:
            return [_without(blank, failure) for blank in blanks]
        return [_checked_score(score, blank) for score, blank in zip(scores, blanks, strict=True)]


class CheckedJudge(_Checked, GroupJudge):
    """A class with `judge(group, wanted) -> list[Verdict]`, plain or async."""

    async def judge_group(self, group: CompletionGroup, wanted: Sequence[tuple[int, int]]) -> list[Verdict]:
        """One verdict for each wanted (a, b), in this order."""
        if not wanted:
            return []
        blanks = [
            Verdict(
                prompt_id=group.prompt.prompt_id,
                a=a,
                b=b,
                outcome="abstain",
                p_a=None,
                judge_id=self.judge_id,
                source=self.source,
            )
            for a, b in wanted
        ]
        try:
            given = await self._caller.call(self._instance.judge, group, tuple(wanted))
            verdicts = _in_order(given, Verdict, lambda verdict: (verdict.a, verdict.b), blanks)
        except DataError as failure:
            return [_without(blank, failure) for blank in blanks]
        return [_checked_verdict(verdict, blank) for verdict, blank in zip(verdicts, blanks, strict=True)]


def _in_order(given: Any, kind: type[A], key: Callable[[A], Any], blanks: Sequence[A]) -> list[A]:
    """The answers in the order of the blanks. Raises DataError unless there is exactly one for each blank."""
    try:
        answers: list[A] = list(given) if isinstance(given, list | tuple) else []
        usable = isinstance(given, list | tuple) and all(_has_types(answer, kind) for answer in answers)
        by_key = {key(answer): answer for answer in answers} if usable else {}
    except Exception as error:  # the objects are the user's: anything may happen inside them
        raise DataError("judge_wrong_type", f"{type(error).__name__} while reading the answers") from error
    if not usable or any(answer.prompt_id != blanks[0].prompt_id for answer in answers):
        raise DataError("judge_wrong_type", f"got {type(given).__name__}, expected {kind.__name__}s of this prompt")
    if len(answers) != len(blanks) or any(key(blank) not in by_key for blank in blanks):
        raise DataError("judge_wrong_count", f"got {len(answers)} answers, expected one for each of {len(blanks)}")
    return [by_key[key(blank)] for blank in blanks]


def _has_types(answer: Any, kind: type[A]) -> bool:
    return (
        type(answer) is kind
        and all(type(text) is str for text in (answer.prompt_id, answer.judge_id, answer.reason))
        and type(answer.evidence) is bytes
        and answer.source in get_args(Source)
    )


def _checked_score(score: Score, blank: Score) -> Score:
    value = read_number(score.value)
    if isinstance(value, DataError):
        return _without(score if score.value is None else blank, value)
    return replace(score, value=value, index=blank.index)


def _checked_verdict(verdict: Verdict, blank: Verdict) -> Verdict:
    if verdict.outcome not in get_args(Outcome):
        return _without(blank, DataError("judge_wrong_type", f"got outcome {verdict.outcome!r:.50}"))
    if verdict.outcome == "abstain":
        return _without(verdict, DataError("abstained"))
    if verdict.p_a is None:
        return verdict
    p_a = as_probability(read_number(verdict.p_a))
    if isinstance(p_a, DataError):
        return _without(blank, p_a)
    if (verdict.outcome == "a" and p_a < 0.5) or (verdict.outcome == "b" and p_a > 0.5):
        return _without(blank, DataError("judge_contradiction", f"outcome {verdict.outcome} with p_a = {p_a}"))
    return replace(verdict, p_a=p_a)


def _without(answer: A, failure: DataError) -> A:
    """The answer as an abstention; the judge's own reason and evidence stand where it gave them."""
    _, reason, evidence = split(failure)
    cleared: dict[str, Any] = {"value": None} if isinstance(answer, Score) else {"outcome": "abstain", "p_a": None}
    return replace(answer, reason=answer.reason or reason, evidence=answer.evidence or evidence, **cleared)
