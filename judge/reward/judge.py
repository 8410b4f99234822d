"""A reward model as a judge: one number for each answer in its conversation, higher is better."""

from collections.abc import Sequence
from functools import partial

from judge.protocol import Scorer
from judge.reward.check import check_model
from judge.reward.config import RewardModelBackend
from judge.reward.encoding import RowEncoder
from judge.reward.rows import ClassifierRows
from judge.reward.source import Logits, name_judge
from judge.types import JudgeReport, Score, Source
from judge.values import read_number, split
from rollout.errors import DataError
from rollout.types import CompletionGroup, Message, TokenIds


class RewardModelJudge(Scorer):
    """Scores the rows of all groups of a call together; a score is the head's raw logit, with no sigmoid.

    Abstains with invalid_text, special_token, template_refused, too_long, judge_not_finite, judge_raised, or, with an
    endpoint, endpoint_failed.
    """

    source: Source = "reward_model"

    def __init__(self, config: RewardModelBackend) -> None:
        self.judge_id = name_judge(config)
        self._label = config.label or 0
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

    async def score(self, groups: Sequence[CompletionGroup]) -> list[list[Score]]:
        """See Scorer.score."""
        dialogues = [
            (*group.prompt.messages, Message(role="assistant", content=completion.text))
            for group in groups
            for completion in group.completions
        ]
        found = iter(await self._rows.logits([partial(_row, messages=messages) for messages in dialogues]))
        return [[self._score(group, one.index, next(found)) for one in group.completions] for group in groups]

    def _score(self, group: CompletionGroup, index: int, logits: Logits | DataError) -> Score:
        value, reason, evidence = split(read_number(logits[self._label]) if isinstance(logits, list) else logits)
        return Score(
            prompt_id=group.prompt.prompt_id,
            index=index,
            value=value,
            judge_id=self.judge_id,
            source=self.source,
            reason=reason,
            evidence=evidence,
        )


def _row(encoder: RowEncoder, *, messages: Sequence[Message]) -> TokenIds:
    return encoder.dialogue(messages)


def build_reward_model(config: RewardModelBackend) -> RewardModelJudge:
    """The judge, not loaded yet. Raises UsageError where the model is not there or has the wrong head."""
    check_model(config)
    return RewardModelJudge(config)
