"""What a judge is to the rest of Rondo: it is asked in batches, and what it cannot answer is an abstention."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from judge.types import JudgeReport, Purpose, Score, Source, Verdict
from judge.values import verdicts_of_scores
from rollout.types import CompletionGroup


@dataclass(frozen=True, kw_only=True)
class Batch:
    """The part of a round that questions belong to: chunk chunk_id of num_chunks, of the pairs or of an evaluation."""

    round_id: int
    purpose: Purpose
    chunk_id: int
    num_chunks: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A group, and which of its completions are to be compared: pairs of indices (a, b).

    Only a judge that takes whole rounds together, as people do, minds the batch.
    """

    group: CompletionGroup
    wanted: tuple[tuple[int, int], ...]
    batch: Batch | None = None


@dataclass(frozen=True, kw_only=True)
class Context:
    """Where a judge works.

    store_dir keeps what was paid for, shared by all actors; salt keys nonces; name tells the judges of a run apart
    (their budgets, too); this is actor `actor` of num_actors, which share limits and budgets evenly. command is what
    resumes the run.
    """

    store_dir: Path
    salt: str
    name: str = "judge"
    actor: int = 0
    num_actors: int = 1
    command: str = ""

    @property
    def run_dir(self) -> Path:
        """The run that the judge works for."""
        return self.store_dir.parent


class Judge(ABC):
    """Compares completions. Never raises for what it or a model did wrong: that is an abstention with a reason.

    InfraError is raised where nothing works any more, and the work is worth trying again later.
    """

    judge_id: str
    source: Source
    # A fallback judges what is missing of a prompt, and not the whole prompt again: its labels are too dear.
    keeps_partial: bool = False

    async def start(self) -> None:  # noqa: B027
        """Get ready: load, or reach out once. Raises UsageError if the judge cannot work as configured."""

    async def close(self) -> None:  # noqa: B027
        """Let connections and processes go."""

    def report(self) -> JudgeReport:
        """Counts and notices since the last report."""
        return JudgeReport()

    async def batch_done(self, batch: Batch) -> None:  # noqa: B027
        """No more questions of this batch will come; some judges were asked none."""

    def waiting_for(self) -> str:
        """What it waits for that takes longer than a computer does, in words; empty where it does not."""
        return ""

    @abstractmethod
    async def judge(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """For each question one verdict for each wanted pair, in this order."""


class Scorer(Judge):
    """A judge that scores each completion for itself."""

    @abstractmethod
    async def score(self, groups: Sequence[CompletionGroup]) -> list[list[Score]]:
        """For each group one score a completion, in the group's order; value None is an abstention."""

    async def judge(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """The higher score wins."""
        scores = await self.score([question.group for question in questions])
        return [verdicts_of_scores(found, question.wanted) for found, question in zip(scores, questions, strict=True)]
