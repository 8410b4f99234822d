"""A scorer of answers that are right (1) or wrong (0): checked, not judged."""

import asyncio
from collections.abc import Sequence
from typing import Any

from judge.protocol import Scorer
from judge.types import Score, Source
from judge.verifier.answers import check_of, code_in, extracted, tests_of
from judge.verifier.check import check_verifier
from judge.verifier.config import VerifierBackend
from judge.verifier.sandbox import run_tests
from rollout.errors import DataError, UsageError
from rollout.shards import hash_json
from rollout.types import Completion, CompletionGroup

_NAMED = ("check", "column", "extract", "expected", "tolerance")


class Verifier(Scorer):
    """Scores 1.0 what passes the check and 0.0 what does not, an answer that nothing can be extracted from included.

    What is wrong with the reference or the sandbox is an abstention: no_reference, bad_reference, check_timeout,
    sandbox_failed. Code that does not end within timeout_s is a wrong answer. Evidence says what was wrong.
    """

    source: Source = "verifier"

    def __init__(self, config: VerifierBackend) -> None:
        named = {name: getattr(config, name) for name in _NAMED}
        self.judge_id = f"verifier:{config.check}@{hash_json(named)[:8]}"
        self._config = config
        self._slots: tuple[asyncio.AbstractEventLoop, asyncio.Semaphore] | None = None

    async def start(self) -> None:
        """See Judge.start: runs the sandbox once, so that a broken one is no wrong answer later."""
        if self._config.check != "unit_tests":
            return
        try:
            outcome = await run_tests(
                "import math, re\nvalue = math.tau",
                "assert value > 6",
                timeout_s=max(self._config.timeout_s, 10.0),
                memory_mib=self._config.memory_mib,
            )
            problem = "" if outcome.what == "passed" else f"{outcome.what}: {outcome.detail}"
        except DataError as error:
            problem = str(error)
        if problem:
            raise UsageError(
                f"judge.check unit_tests cannot run a sandboxed test here: {problem}; raise judge.memory_mib "
                f"(now {self._config.memory_mib}), or use another machine"
            )

    async def score(self, groups: Sequence[CompletionGroup]) -> list[list[Score]]:
        """See Scorer.score."""
        return await asyncio.gather(*map(self._score_group, groups))

    async def _score_group(self, group: CompletionGroup) -> list[Score]:
        try:
            expected = self._expected(group)
            if self._config.check == "unit_tests":
                tests = tests_of(expected)
                results = await asyncio.gather(*(self._tested(one, tests) for one in group.completions))
            else:
                results = await asyncio.to_thread(self._checked, group, expected)
        except DataError as failure:
            results = [failure] * len(group.completions)
        scores = []
        for completion, result in zip(group.completions, results, strict=True):
            failed = isinstance(result, DataError)
            detail = result.detail if isinstance(result, DataError) else result
            score = Score(
                prompt_id=group.prompt.prompt_id,
                index=completion.index,
                value=None if failed else 0.0 if detail else 1.0,
                judge_id=self.judge_id,
                source=self.source,
                reason=result.reason if isinstance(result, DataError) else "",
                evidence=detail.encode(errors="backslashreplace"),
            )
            scores.append(score)
        return scores

    def _expected(self, group: CompletionGroup) -> Any:
        if self._config.expected is not None:
            return self._config.expected
        expected = group.prompt.metadata.get(self._config.column)
        if expected is None:
            raise DataError("no_reference", f"the prompt has no column {self._config.column!r}")
        return expected

    def _checked(self, group: CompletionGroup, expected: Any) -> list[str | DataError]:
        check = check_of(self._config, expected)
        results: list[str | DataError] = []
        for completion in group.completions:
            try:
                answer = extracted(completion.text, self._config)
                results.append("nothing extracted" if answer is None else check(answer))
            except DataError as failure:
                results.append(failure)
        return results

    async def _tested(self, completion: Completion, tests: str) -> str | DataError:
        try:
            text = await asyncio.to_thread(extracted, completion.text, self._config)
            if text is None:
                return "nothing extracted"
            async with self._slot():
                outcome = await run_tests(
                    code_in(text), tests, timeout_s=self._config.timeout_s, memory_mib=self._config.memory_mib
                )
        except DataError as failure:
            return failure
        return "" if outcome.what == "passed" else f"{outcome.what}: {outcome.detail}"

    def _slot(self) -> asyncio.Semaphore:
        loop = asyncio.get_running_loop()  # a semaphore belongs to the loop that it first waits in
        if self._slots is None or self._slots[0] is not loop:
            self._slots = (loop, asyncio.Semaphore(self._config.concurrency))
        return self._slots[1]


def build_verifier(config: VerifierBackend) -> Verifier:
    """The configured verifier. Raises UsageError if it cannot work."""
    check_verifier(config)
    return Verifier(config)
