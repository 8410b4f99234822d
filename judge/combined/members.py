"""What all judges made of judges share: their members start, close and report together."""

import asyncio
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from judge.protocol import Batch, Judge
from judge.types import JudgeReport, Source
from rollout.shards import hash_json

T = TypeVar("T")


class Members(Judge):
    """Several judges under one name, in a fixed order."""

    source: Source = "ensemble"

    def __init__(self, members: Sequence[Judge], *, name: str, settings: Mapping[str, Any]) -> None:
        self.members = tuple(members)
        self._name = name
        self._settings = dict(settings)
        self.judge_id = self._compose_id()

    async def start(self) -> None:
        """See Judge.start; if one member cannot start, those that did are closed again."""
        started: list[Judge] = []
        try:
            for member in self.members:
                await member.start()
                started.append(member)
        except BaseException:
            for member in started:
                await member.close()
            raise
        self.judge_id = self._compose_id()  # some members know their own only once they are loaded

    async def close(self) -> None:
        """See Judge.close."""
        for member in self.members:
            await member.close()

    async def batch_done(self, batch: Batch) -> None:
        """See Judge.batch_done."""
        for member in self.members:
            await member.batch_done(batch)

    def waiting_for(self) -> str:
        """See Judge.waiting_for."""
        return next(filter(None, (member.waiting_for() for member in self.members)), "")

    def report(self) -> JudgeReport:
        """The members' counts under 0/, 1/, ... in their order, and their notices."""
        reports = [member.report() for member in self.members]
        counts = {f"{place}/{name}": num for place, one in enumerate(reports) for name, num in one.counts.items()}
        return JudgeReport(counts=counts, notices=tuple(notice for one in reports for notice in one.notices))

    def _compose_id(self) -> str:
        names = [member.judge_id for member in self.members]
        return f"{self._name}({', '.join(names)})@{hash_json([self._name, self._settings, names])[:8]}"


async def gather_all(calls: Iterable[Awaitable[T]]) -> list[T]:
    """The results in order; the first error, if there is one, only after every call has ended."""
    results = await asyncio.gather(*calls, return_exceptions=True)
    found: list[T] = []
    for result in results:
        if isinstance(result, BaseException):
            raise result
        found.append(result)
    return found
