"""Judges that are asked one prompt after another: the shape of the user's own code."""

import asyncio
from abc import abstractmethod
from collections.abc import Sequence

from judge.protocol import Judge, Question, Scorer
from judge.types import Score, Verdict
from rollout.types import CompletionGroup


class GroupJudge(Judge):
    """Compares the completions of one prompt at a time; prompts side by side as far as the code is async."""

    @abstractmethod
    async def judge_group(self, group: CompletionGroup, wanted: Sequence[tuple[int, int]]) -> list[Verdict]:
        """One verdict for each wanted pair, in this order."""

    async def judge(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """See Judge.judge."""
        return await asyncio.gather(*(self.judge_group(question.group, question.wanted) for question in questions))


class GroupScorer(Scorer):
    """Scores the completions of one prompt at a time; prompts side by side as far as the code is async."""

    @abstractmethod
    async def score_group(self, group: CompletionGroup) -> list[Score]:
        """One score a completion, in the order of the group."""

    async def score(self, groups: Sequence[CompletionGroup]) -> list[list[Score]]:
        """See Scorer.score."""
        return await asyncio.gather(*map(self.score_group, groups))
