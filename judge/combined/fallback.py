"""Another judge where the first cannot be reached any more: its budget is spent, or its endpoint fails."""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from judge.combined.members import Members
from judge.protocol import Judge, Question, Scorer
from judge.types import FAILED_OVER, JudgeReport, Score, Verdict
from rollout.errors import InfraError
from rollout.types import CompletionGroup

Asked = TypeVar("Asked")
A = TypeVar("A", Score, Verdict)
_UNREACHABLE = "endpoint_failed"


class _Fallback(Members):
    """A prompt is judged by one judge alone: whole, and afresh, by the other where any answer on it failed over.

    What people said is kept: where the first judge keeps_partial, only its missing comparisons are asked of the other.

    report() counts failed_over, the prompts that the other judge answered, and says once for each reason that it did.
    """

    def __init__(self, first: Judge, other: Judge) -> None:
        super().__init__((first, other), name="fallback", settings={})
        self.first, self.other = first, other
        self.source = first.source
        self._num_failed_over = 0
        self._notices: list[str] = []
        self._told: set[str] = set()

    def report(self) -> JudgeReport:
        """See Judge.report."""
        members = super().report()
        counts = dict(members.counts)
        if self._num_failed_over:
            counts["failed_over"] = self._num_failed_over
        report = JudgeReport(counts=counts, notices=(*members.notices, *self._notices))
        self._num_failed_over, self._notices = 0, []
        return report

    async def _answers(
        self,
        asked: Sequence[Asked],
        ask_first: Callable[[Sequence[Asked]], Awaitable[list[list[A]]]],
        ask_other: Callable[[Sequence[Asked]], Awaitable[list[list[A]]]],
    ) -> list[list[A]]:
        if not asked:
            return []
        try:
            found = list(await ask_first(asked))
            reasons = [_failure(answers) for answers in found]
        except InfraError as error:
            found = [[] for _ in asked]
            reasons = [_UNREACHABLE] * len(asked)
            detail = f" ({error})"
        else:
            detail = ""
        again = [place for place, reason in enumerate(reasons) if reason]
        if not again:
            return found
        for reason, num in sorted(Counter(reason for reason in reasons if reason).items()):
            self._tell(reason, num, detail)
        for place, answers in zip(again, await ask_other([asked[place] for place in again]), strict=True):
            found[place] = answers
        self._num_failed_over += len(again)
        return found

    def _tell(self, reason: str, num: int, detail: str, what: str = "prompts") -> None:
        if reason not in self._told:
            self._told.add(reason)
            self._notices.append(
                f"judge {self.first.judge_id}: {reason.replace('_', ' ')}{detail}, {self.other.judge_id} takes over "
                f"(first on {num} {what})"
            )


class FallbackJudge(_Fallback):
    """On verdicts."""

    async def judge(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """See Judge.judge."""
        if self.first.keeps_partial:
            return await self._filled(questions)
        return await self._answers(questions, self.first.judge, self.other.judge)

    async def _filled(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """The first judge's verdicts, and the other's on those comparisons alone that came to none."""
        found = await self.first.judge(questions)
        missing = [[place for place, verdict in enumerate(given) if _failure([verdict])] for given in found]
        again = [number for number, places in enumerate(missing) if places]
        if not again:
            return found
        reasons = Counter(_failure([found[number][place]]) for number in again for place in missing[number])
        for reason, num in sorted(reasons.items()):
            self._tell(reason, num, "", what="comparisons")
        asked = [
            replace(questions[number], wanted=tuple(questions[number].wanted[place] for place in missing[number]))
            for number in again
        ]
        for number, verdicts in zip(again, await self.other.judge(asked), strict=True):
            for place, verdict in zip(missing[number], verdicts, strict=True):
                found[number][place] = verdict
        self._num_failed_over += len(again)
        return found


class FallbackScorer(_Fallback, Scorer):
    """On scores: both judges are scorers."""

    def __init__(self, first: Scorer, other: Scorer) -> None:
        super().__init__(first, other)
        self._score_first, self._score_other = first.score, other.score

    async def score(self, groups: Sequence[CompletionGroup]) -> list[list[Score]]:
        """See Scorer.score."""
        return await self._answers(groups, self._score_first, self._score_other)


def with_fallback(judge: Judge, other: Judge) -> Judge:
    """The judge, and the other one for every prompt on which it fails for a reason in FAILED_OVER, or InfraError."""
    if isinstance(judge, Scorer) and isinstance(other, Scorer):
        return FallbackScorer(judge, other)
    return FallbackJudge(judge, other)


def _failure(answers: Sequence[Score | Verdict]) -> str:
    """The first reason in FAILED_OVER for which one of a prompt's answers is missing; "" where there is none."""
    for answer in answers:
        missing = answer.value is None if isinstance(answer, Score) else answer.outcome == "abstain"
        if missing and answer.reason in FAILED_OVER:
            return answer.reason
    return ""
