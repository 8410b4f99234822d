"""A language model as a judge: pairwise in both orders, or pointwise grades."""

import asyncio
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from judge.llm.asking import Asking, Chunk, Trail
from judge.llm.check import check_llm
from judge.llm.config import LlmBackend
from judge.llm.frame import encode_answer, encode_conversation
from judge.protocol import Context, Judge, Question, Scorer
from judge.types import JudgeReport, Score, Source, Verdict
from judge.values import outcome_of, split
from rollout.errors import DataError
from rollout.types import CompletionGroup


class _Llm:
    source: Source = "llm"

    def __init__(self, config: LlmBackend, context: Context) -> None:
        self._config = config
        self._asking = Asking(config, context)
        self.judge_id = self._asking.judge_id

    async def start(self) -> None:
        """See Asking.start."""
        await self._asking.start()

    async def close(self) -> None:
        """See Asking.close."""
        await self._asking.close()

    def report(self) -> JudgeReport:
        """Requests, failures by kind, tokens, money, cache hits and seconds of latency since the last report."""
        return self._asking.report()

    async def _slot(
        self, parts: Mapping[str, str], place: dict[str, Any], *, first: int, chunk: Chunk, trail: Trail
    ) -> tuple[float | DataError, int]:
        """Ask until it can be read, or max_reasks is reached; the value, and the number of the last question."""
        reask = first
        while True:
            value = await self._asking.ask(parts, {**place, "reask": reask}, chunk=chunk, trail=trail)
            if not isinstance(value, DataError) or value.reason in _NOT_ASKED_AGAIN or reask >= self._config.max_reasks:
                return value, reask
            reask += 1


_NOT_ASKED_AGAIN = frozenset({"endpoint_failed", "deadline", "budget_spent", "refused_by_endpoint"})


class LlmJudge(_Llm, Judge):
    """Compares two answers in both orders; p_a = (p_AB(A) + 1 - p_BA(A)) / 2, and exactly 1/2 is a tie."""

    async def judge(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """See Judge.judge. An abstention's evidence holds the raw answers."""
        flat = [(question.group, a, b) for question in questions for a, b in question.wanted]
        verdicts = iter(await self._asking.each(flat, self._compare))
        return [[next(verdicts) for _ in question.wanted] for question in questions]

    async def _compare(self, pair: tuple[CompletionGroup, int, int], chunk: Chunk) -> Verdict:
        group, a, b = pair
        trail = Trail()
        consistent: bool | None = None
        try:
            p_ab, p_ba = await self._both_orders(group, a, b, chunk, trail)
            # Written so that equal preferences for the first place cancel out exactly.
            value: float | DataError = 0.5 + (p_ab - p_ba) / 2
            consistent = outcome_of(p_ab, 0.5) == outcome_of(0.5, p_ba)
        except DataError as failure:
            value = failure
        p_a, reason, detail = split(value)
        return Verdict(
            prompt_id=group.prompt.prompt_id,
            a=a,
            b=b,
            outcome=outcome_of(p_a, 0.5),
            p_a=p_a,
            judge_id=self.judge_id,
            source=self.source,
            consistent=consistent,
            reason=reason,
            evidence=trail.evidence() or detail,
        )

    async def _both_orders(
        self, group: CompletionGroup, a: int, b: int, chunk: Chunk, trail: Trail
    ) -> tuple[float, float]:
        """Mean preference for the answer in the first place, with a there and with b there.

        Raises DataError where one cannot be had, or, with method json, where the orders contradict each other.
        """
        conversation = encode_conversation(group.prompt.messages)
        texts = {completion.index: completion.text for completion in group.completions}
        first, second = (encode_answer(texts[i], max_chars=self._config.max_answer_chars) for i in (a, b))
        parts = {
            "ab": {"conversation": conversation, "answer_a": first, "answer_b": second},
            "ba": {"conversation": conversation, "answer_a": second, "answer_b": first},
        }
        samples = range(self._config.num_samples)
        reask = 0
        while True:
            asked = await asyncio.gather(
                *(
                    self._slot(parts[order], {"order": order, "sample": sample}, first=reask, chunk=chunk, trail=trail)
                    for order in ("ab", "ba")
                    for sample in samples
                )
            )
            values = [_number(value) for value, _ in asked]
            p_ab, p_ba = fmean(values[: len(samples)]), fmean(values[len(samples) :])
            contradict = (p_ab - 0.5) * (p_ba - 0.5) > 0.0  # the same place won twice
            if self._config.method == "logprobs" or not contradict:
                return p_ab, p_ba
            reask = max(number for _, number in asked) + 1
            if reask > self._config.max_reasks:
                raise DataError("orders_disagree", f"{p_ab:g} and {p_ba:g} for the first place")


class LlmScorer(_Llm, Scorer):
    """Grades each answer from 1 to 10; with several samples, their mean."""

    async def score(self, groups: Sequence[CompletionGroup]) -> list[list[Score]]:
        """See Scorer.score. An abstention's evidence holds the raw answers."""
        flat = [(group, completion.index, completion.text) for group in groups for completion in group.completions]
        scores = iter(await self._asking.each(flat, self._grade))
        return [[next(scores) for _ in group.completions] for group in groups]

    async def _grade(self, item: tuple[CompletionGroup, int, str], chunk: Chunk) -> Score:
        group, index, text = item
        trail = Trail()
        try:
            parts = {
                "conversation": encode_conversation(group.prompt.messages),
                "answer": encode_answer(text, max_chars=self._config.max_answer_chars),
            }
            samples = range(self._config.num_samples)
            asked = await asyncio.gather(
                *(self._slot(parts, {"sample": sample}, first=0, chunk=chunk, trail=trail) for sample in samples)
            )
            value: float | DataError = fmean(_number(found) for found, _ in asked)
        except DataError as failure:
            value = failure
        number, reason, detail = split(value)
        return Score(
            prompt_id=group.prompt.prompt_id,
            index=index,
            value=number,
            judge_id=self.judge_id,
            source=self.source,
            reason=reason,
            evidence=trail.evidence() or detail,
        )


def build_llm(config: LlmBackend, context: Context) -> LlmJudge | LlmScorer:
    """The configured judge, not started yet. Raises UsageError if it cannot work as configured."""
    check_llm(config)
    return LlmJudge(config, context) if config.style == "pairwise" else LlmScorer(config, context)


def _number(value: float | DataError) -> float:
    if isinstance(value, DataError):
        raise value
    return value
