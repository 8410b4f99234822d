"""Judges that are functions of the user, in the shape that TRL's reward functions have.

A pointwise function is called once a prompt, `score(prompts, completions, **columns) -> list[float | None]`, with
one entry a completion in every argument: prompts are message lists, completions are lists of one assistant message,
columns are the prompt's metadata. A pairwise function is `compare(prompts, completions_a, completions_b, **columns)`
and returns the probability that a is better: 0.5 is a tie. None abstains. Whatever else a function does is an
abstention too, counted by reason: never a label, never a zero.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from judge.calls import Caller
from judge.checked import CheckedJudge, CheckedScorer
from judge.per_group import GroupJudge, GroupScorer
from judge.target import CodeBackend, bind_settings, check_target, import_target, judge_id, keywords
from judge.types import Score, Source, Verdict
from judge.values import as_probability, outcome_of, read_values, split
from rollout.errors import DataError, UsageError
from rollout.types import Completion, CompletionGroup, Message

__all__ = ["FunctionComparer", "FunctionScorer", "build_function", "check_target"]


class _Function:
    """Calls the user's function on one prompt's answers, in as many rows as there are values wanted."""

    source: Source = "function"

    def __init__(
        self, function: Callable[..., Any], *, judge_id: str, settings: Mapping[str, Any], timeout_s: float
    ) -> None:
        self.judge_id = judge_id
        self._function = function
        self._settings = dict(settings)
        self._accepted = keywords(function)
        self._caller = Caller(timeout_s=timeout_s)

    async def _values(self, group: CompletionGroup, **answers: list[list[Message]]) -> list[float | DataError]:
        num_rows = len(next(iter(answers.values())))
        # Messages are copied for each row: building a conversation in place is a likely thing for a function to do.
        prompts = [[message.copy() for message in group.prompt.messages] for _ in range(num_rows)]
        arguments: dict[str, Any] = {"prompts": prompts, **answers, **self._settings}
        columns = group.prompt.metadata
        clash = sorted(arguments.keys() & columns.keys())
        if clash:
            raise UsageError(
                f"prompt {group.prompt.prompt_id} has metadata columns named {clash}, which the judge's arguments or "
                "judge.settings are named already; rename these columns in the prompt file, or those settings"
            )
        arguments.update((name, [value] * num_rows) for name, value in columns.items())
        if self._accepted is not None:
            arguments = {name: value for name, value in arguments.items() if name in self._accepted}
        try:
            return read_values(await self._caller.call(self._function, **arguments), num_rows)
        except DataError as failure:
            return [failure] * num_rows


class FunctionScorer(_Function, GroupScorer):
    """Scores each completion of a group by the user's function; any finite number is a score, higher is better."""

    async def score_group(self, group: CompletionGroup) -> list[Score]:
        """One score a completion, in the order of the group."""
        if not group.completions:
            return []
        values = await self._values(group, completions=_messages(group.completions))
        prompt_id = group.prompt.prompt_id
        scores = []
        for completion, (value, reason, evidence) in zip(group.completions, map(split, values), strict=True):
            score = Score(
                prompt_id=prompt_id,
                index=completion.index,
                value=value,
                judge_id=self.judge_id,
                source=self.source,
                reason=reason,
                evidence=evidence,
            )
            scores.append(score)
        return scores


class FunctionComparer(_Function, GroupJudge):
    """Compares two completions at a time by the user's function, which returns the probability that a is better."""

    async def judge_group(self, group: CompletionGroup, wanted: Sequence[tuple[int, int]]) -> list[Verdict]:
        """One verdict for each wanted (a, b), in this order."""
        if not wanted:
            return []
        by_index = {completion.index: completion for completion in group.completions}
        values = await self._values(
            group,
            completions_a=_messages([by_index[a] for a, _ in wanted]),
            completions_b=_messages([by_index[b] for _, b in wanted]),
        )
        verdicts = []
        for (a, b), value in zip(wanted, values, strict=True):
            p_a, reason, evidence = split(as_probability(value))
            verdict = Verdict(
                prompt_id=group.prompt.prompt_id,
                a=a,
                b=b,
                outcome=outcome_of(p_a, 0.5),
                p_a=p_a,
                judge_id=self.judge_id,
                source=self.source,
                reason=reason,
                evidence=evidence,
            )
            verdicts.append(verdict)
        return verdicts


def _messages(completions: Sequence[Completion]) -> list[list[Message]]:
    return [[{"role": "assistant", "content": completion.text}] for completion in completions]


def build_function(config: CodeBackend) -> GroupJudge | GroupScorer:
    """The user's function or class as a judge; constructs the class, once. Raises UsageError if it cannot work."""
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
            f"{name.rpartition('@')[0]} failed in its constructor: {type(error).__name__}: {error}; "
            "mend the class or judge.settings"
        ) from error
    checked = CheckedScorer if pointwise else CheckedJudge
    return checked(instance, judge_id=name, timeout_s=config.timeout_s)
