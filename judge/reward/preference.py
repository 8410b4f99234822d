"""A preference model as a judge: it reads the prompt with both answers at once, in both orders.

Let z(A, B) be the model's log-odds that the answer that it reads first is the better one: the logit itself of a head
with one label, else the chosen label's logit minus the log-sum-exp of the others. Both orders estimate the same
log-odds of A, z(A, B) and -z(B, A), and what a model adds for the place cancels in their mean:

    p_a = sigmoid((z(A, B) - z(B, A)) / 2)

PairRM (Jiang et al. 2023, 2306.02561, section 3.2) decides by the sign of the same difference, without the half. The
orders agree (`consistent`) where z(A, B) and z(B, A) have opposite signs.
"""

import math
from collections.abc import Sequence
from functools import partial

from judge.protocol import Judge, Question
from judge.reward.check import check_model
from judge.reward.config import PreferenceModelBackend
from judge.reward.encoding import RowEncoder, plain
from judge.reward.rows import ClassifierRows
from judge.reward.source import Logits, name_judge
from judge.types import JudgeReport, Source, Verdict
from judge.values import outcome_of, read_number, split
from rollout.errors import DataError
from rollout.types import Message, TokenIds


class PreferenceModelJudge(Judge):
    """Compares by a jointly encoded pair; abstains where either order has no answer, for a reward model's reasons."""

    source: Source = "preference_model"

    def __init__(self, config: PreferenceModelBackend) -> None:
        self.judge_id = name_judge(config)
        self._label = config.label or 0
        self._template = config.template
        self._rows = ClassifierRows(config)

    async def start(self) -> None:
        """See Judge.start."""
        await self._rows.start()

    async def close(self) -> None:
        """See Judge.close."""
        await self._rows.close()

    def report(self) -> JudgeReport:
        """See Judge.report."""
        return self._rows.report()

    async def judge(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """See Judge.judge."""
        makers = []
        for question in questions:
            texts = {completion.index: completion.text for completion in question.group.completions}
            prompt = prompt_text(question.group.prompt.messages)
            for a, b in question.wanted:
                for first, second in ((a, b), (b, a)):
                    parts = {"prompt": prompt, "a": texts[first], "b": texts[second]}
                    makers.append(partial(_row, template=self._template, parts=parts))
        found = iter(await self._rows.logits(makers))
        return [
            [self._verdict(question, pair, next(found), next(found)) for pair in question.wanted]
            for question in questions
        ]

    def _verdict(
        self, question: Question, pair: tuple[int, int], forward: Logits | DataError, backward: Logits | DataError
    ) -> Verdict:
        ab, ba = log_odds(forward, self._label), log_odds(backward, self._label)
        failure = next((each for each in (ab, ba) if isinstance(each, DataError)), None)
        _, reason, evidence = split(failure) if failure is not None else (None, "", b"")
        p_a, consistent = None, None
        if isinstance(ab, float) and isinstance(ba, float):
            p_a, consistent = probability(ab, ba), ab * ba < 0.0
        return Verdict(
            prompt_id=question.group.prompt.prompt_id,
            a=pair[0],
            b=pair[1],
            outcome=outcome_of(p_a, 0.5),
            p_a=p_a,
            judge_id=self.judge_id,
            source=self.source,
            consistent=consistent,
            reason=reason,
            evidence=evidence,
        )


def log_odds(logits: Logits | DataError, label: int) -> float | DataError:
    """z of this module's head, in nats; or why there is none."""
    if isinstance(logits, DataError):
        return logits
    if not all(map(math.isfinite, logits)):
        return DataError("judge_not_finite", f"got {logits}, expected finite logits")
    others = [logit for place, logit in enumerate(logits) if place != label]
    if not others:
        return read_number(logits[label])
    top = max(others)
    return read_number(logits[label] - top - math.log(sum(math.exp(other - top) for other in others)))


def probability(ab: float, ba: float) -> float:
    """p_a of this module's head from the log-odds of both orders."""
    return 0.5 * (1.0 + math.tanh((ab - ba) / 4.0))  # the sigmoid of half the difference, without overflow


def prompt_text(messages: Sequence[Message]) -> str:
    """A prompt as joint templates hold it: a lone user turn as it is, a conversation as "role: content"."""
    alone = len(messages) == 1 and messages[0]["role"] == "user"
    return messages[0]["content"] if alone else plain(messages)


def _row(encoder: RowEncoder, *, template: str, parts: dict[str, str]) -> TokenIds:
    return encoder.joint(template, parts)


def build_preference_model(config: PreferenceModelBackend) -> PreferenceModelJudge:
    """The judge, not loaded yet. Raises UsageError where the model is not there or has the wrong head."""
    check_model(config)
    return PreferenceModelJudge(config)
