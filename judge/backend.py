"""What a judge is to the rest of the package, and how the configured one is made."""

import inspect
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from judge.checked import CheckedJudge, CheckedScorer
from judge.config import JudgeConfig
from judge.function import FunctionComparer, FunctionScorer
from judge.target import bind_settings, check_target, import_target, judge_id
from judge.types import Score, Source, Verdict
from rollout.errors import UsageError
from rollout.types import CompletionGroup


class Judge(Protocol):
    """Compares completions of one prompt. Never raises for what the judge did wrong: that is an abstention."""

    judge_id: str
    source: Source

    async def judge(self, group: CompletionGroup, wanted: Sequence[tuple[int, int]]) -> list[Verdict]:
        """One verdict for each wanted pair of completion indices (a, b), in this order."""
        ...


@runtime_checkable
class Scorer(Judge, Protocol):
    """A judge that scores each completion for itself."""

    async def score(self, group: CompletionGroup) -> list[Score]:
        """One score a completion, in the order of the group; value None is an abstention."""
        ...


def build(config: JudgeConfig) -> Judge:
    """The configured judge; constructs the user's class, once. Raises UsageError if it cannot work."""
    check_target(config)
    target = import_target(config)
    name = judge_id(config)
    pointwise = config.style == "pointwise"
    if not inspect.isclass(target):
        function = FunctionScorer if pointwise else FunctionComparer
        return function(target, judge_id=name, settings=config.settings, timeout_s=config.timeout_s)
    try:
        instance = bind_settings(config, target)()
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(
            f"judge.target {config.target!r} failed in its constructor: {type(error).__name__}: {error}; "
            "mend the class or judge.settings"
        ) from error
    checked = CheckedScorer if pointwise else CheckedJudge
    return checked(instance, judge_id=name, timeout_s=config.timeout_s)
