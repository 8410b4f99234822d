"""A cheap judge first; the next one is asked where it is unsure, abstains, or the first two differ.

That is active selection under a budget of labels: of a chunk's comparisons at most a share goes on to each next judge,
the least sure first. Budgets in requests, tokens and money are each judge's own.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from judge.combined.members import Members, gather_all
from judge.config import CascadeBackend
from judge.pairing import lead_of
from judge.protocol import Judge, Question, Scorer
from judge.types import JudgeReport, Score, Verdict
from judge.values import verdicts_of_scores
from rollout.types import CompletionGroup


@dataclass(kw_only=True, eq=False)
class _Comparison:
    """What stands on one comparison, how sure it is from 0 (abstained) to 1, and whether a further judge is wanted."""

    question: int
    place: int
    standing: Verdict
    sureness: float
    is_open: bool

    @property
    def rank(self) -> tuple[float, str, int, int]:
        return self.sureness, self.standing.prompt_id, self.standing.a, self.standing.b


class Cascade(Members):
    """Each comparison is decided by the last judge that answered it, and its verdict names that judge.

    Surely decided is what has max(p, 1 - p) of at least unsure_below; without a probability a win is sure and a tie is
    not. With escalate: disagree or either the first two judges are asked everything, the second one's answer stands
    where they agree, and the third is asked where they do not. Where a next judge abstains, or none is asked because
    the share is used up, the earlier answer stands and is counted as kept_unsure.

    report() counts K/asked for each judge K, escalated (comparisons that went on), and kept_unsure.
    """

    def __init__(self, config: CascadeBackend, members: Sequence[Judge]) -> None:
        names = ("unsure_below", "score_scale", "max_share", "escalate")
        super().__init__(members, name="cascade", settings={name: getattr(config, name) for name in names})
        self._config = config
        self._counts: Counter[str] = Counter()

    async def judge(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """See Judge.judge."""
        num_first = 1 if self._config.escalate == "unsure" else 2
        given = await gather_all(self._ask(level, questions) for level in range(num_first))
        comparisons = [
            self._opened(question, place, [of_judge[question][place] for of_judge in given])
            for question, asked in enumerate(questions)
            for place in range(len(asked.wanted))
        ]
        limit = math.floor(self._config.max_share * len(comparisons) + 1e-9)
        for level in range(num_first, len(self.members)):
            await self._escalate(level, questions, comparisons, limit)
        verdicts: list[list[Verdict]] = [[] for _ in questions]
        for comparison in comparisons:  # in the order of the questions and of what each of them wants
            verdicts[comparison.question].append(comparison.standing)
        return verdicts

    def report(self) -> JudgeReport:
        """See Judge.report."""
        members = super().report()
        counts = {**members.counts, **+self._counts}  # + leaves out zeros
        self._counts.clear()
        return JudgeReport(counts=counts, notices=members.notices)

    def _opened(self, question: int, place: int, opinions: Sequence[Verdict]) -> _Comparison:
        answered = [verdict for verdict in opinions if verdict.outcome != "abstain"]
        standing = (answered or opinions)[-1]
        if len(opinions) == 1:
            sureness = _sureness(standing)
            agreed = True
        else:
            agreed = len(answered) == len(opinions) and len({verdict.outcome for verdict in answered}) == 1
            sureness = 0.5 + abs(math.fsum(map(lead_of, answered))) / len(answered) if answered else 0.0
        unsure = sureness < self._config.unsure_below and self._config.escalate != "disagree"
        return _Comparison(
            question=question, place=place, standing=standing, sureness=sureness, is_open=unsure or not agreed
        )

    async def _escalate(
        self, level: int, questions: Sequence[Question], comparisons: Sequence[_Comparison], limit: int
    ) -> None:
        ranked = sorted((one for one in comparisons if one.is_open), key=lambda one: one.rank)
        for kept in ranked[limit:]:
            kept.is_open = False
            self._counts["kept_unsure"] += kept.standing.outcome != "abstain"
        going_on = sorted(ranked[:limit], key=lambda one: (one.question, one.place))
        if not going_on:
            return
        self._counts["escalated"] += len(going_on)
        by_question: dict[int, list[_Comparison]] = {}
        for one in going_on:
            by_question.setdefault(one.question, []).append(one)
        asked = [
            replace(questions[number], wanted=tuple(questions[number].wanted[one.place] for one in ones))
            for number, ones in by_question.items()
        ]
        given = await self._ask(level, asked)
        for ones, verdicts in zip(by_question.values(), given, strict=True):
            for one, verdict in zip(ones, verdicts, strict=True):
                self._decide(one, verdict, is_last=level == len(self.members) - 1)

    def _decide(self, one: _Comparison, verdict: Verdict, *, is_last: bool) -> None:
        if verdict.outcome == "abstain" and one.standing.outcome != "abstain":
            self._counts["kept_unsure"] += is_last
            return
        one.standing = verdict
        one.sureness = _sureness(verdict)
        one.is_open = one.sureness < self._config.unsure_below

    async def _ask(self, level: int, questions: Sequence[Question]) -> list[list[Verdict]]:
        member = self.members[level]
        self._counts[f"{level}/asked"] += sum(len(question.wanted) for question in questions)
        if not isinstance(member, Scorer):
            return await member.judge(questions)
        scores = await member.score([_narrowed(question) for question in questions])
        return [self._compared(found, question.wanted) for found, question in zip(scores, questions, strict=True)]

    def _compared(self, scores: Sequence[Score], wanted: Sequence[tuple[int, int]]) -> list[Verdict]:
        """Verdicts of scores, with p = sigmoid(difference / score_scale)."""
        values = {score.index: score.value for score in scores}
        verdicts = []
        for verdict in verdicts_of_scores(scores, wanted):
            left, right = values[verdict.a], values[verdict.b]
            p_a = None
            if left is not None and right is not None:
                p_a = 0.5 + 0.5 * math.tanh((left - right) / self._config.score_scale / 2)
            verdicts.append(replace(verdict, p_a=p_a))
        return verdicts


def build_cascade(config: CascadeBackend, members: Sequence[Judge]) -> Judge:
    """The members as a cascade, in the order in which they are asked."""
    return Cascade(config, members)


def _sureness(verdict: Verdict) -> float:
    if verdict.outcome == "abstain":
        return 0.0
    if verdict.p_a is not None:
        return max(verdict.p_a, 1 - verdict.p_a)
    return 0.5 if verdict.outcome == "tie" else 1.0


def _narrowed(question: Question) -> CompletionGroup:
    """The group with only those completions that are to be compared: a scorer is not asked for the others."""
    needed = {index for pair in question.wanted for index in pair}
    kept = tuple(one for one in question.group.completions if one.index in needed)
    return replace(question.group, completions=kept)
