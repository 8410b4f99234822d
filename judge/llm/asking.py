"""What the pairwise and the pointwise judge share: their endpoint, their store, and how one question is asked."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from judge.llm.budget import budget_for
from judge.llm.client import Client
from judge.llm.config import LlmBackend
from judge.llm.frame import frame
from judge.llm.reading import Answer, read_label, read_score, read_verdict
from judge.llm.request import Request, make_request
from judge.llm.rubric import load_rubric
from judge.llm.secret import read_key
from judge.protocol import Context
from judge.store import VerdictStore
from judge.types import FAILED_OVER, JudgeReport
from rollout.errors import DataError, InfraError, UsageError
from rollout.shards import hash_json

T = TypeVar("T")
R = TypeVar("R")
_EVIDENCE_BYTES = 4096
_PROBE = "Is everything working?"
_WHAT_COUNTS = (
    "model", "rubric", "style", "method", "num_samples", "temperature", "max_tokens", "max_answer_chars", "max_reasks",
    "extra_body",
)  # fmt: skip


@dataclass(kw_only=True)
class Trail:
    """What was answered on one comparison or completion, in the order in which it was asked; becomes its evidence."""

    answers: list[dict[str, Any]] = field(default_factory=list)

    def note(self, about: Mapping[str, Any], answer: Answer | None, value: float | DataError) -> None:
        """One answer; its text is cut at 4 KiB."""
        entry = dict(about)
        if isinstance(value, DataError):
            entry |= {"reason": value.reason, "detail": value.detail}
        else:
            entry["value"] = value
        if answer is not None and (answer.text or answer.refusal):
            text = (answer.text or answer.refusal or "").encode(errors="backslashreplace")[:_EVIDENCE_BYTES]
            entry["text"] = text.decode(errors="ignore")
        self.answers.append(entry)

    def evidence(self) -> bytes:
        """As JSON, in the order of the questions, whichever was answered first."""
        order = sorted(self.answers, key=lambda entry: json.dumps([entry.get(k) for k in ("order", "sample", "reask")]))
        return json.dumps(order, ensure_ascii=False).encode(errors="backslashreplace") if order else b""


@dataclass(kw_only=True)
class Chunk:
    """How the requests of one call of the judge go; deadline_s is on the event loop's clock.

    stopped is what makes all further requests useless, such as a key that is refused.
    """

    deadline_s: float
    num_answered: int = 0
    num_failed: int = 0
    stopped: InfraError | None = None


class Asking:
    """Asks one endpoint, through the store; close it in the event loop that started it."""

    def __init__(self, config: LlmBackend, context: Context) -> None:
        self.config, self._context = config, context
        self._rubric = load_rubric(config.rubric, style=config.style, method=config.method)
        named = {name: getattr(config, name) for name in _WHAT_COUNTS} | {"template": self._rubric.signature}
        self.judge_id = f"llm:{config.model}/{self._rubric.name}@{hash_json(named)[:8]}"
        self._read = read_score if config.style == "pointwise" else read_label
        if config.style == "pairwise" and config.method == "json":
            self._read = read_verdict
        self._counts: defaultdict[str, float] = defaultdict(float)
        self._notices: list[str] = []
        self._store = VerdictStore(context.store_dir, judge=context.name, actor=context.actor)
        self._budget = budget_for(
            config.budget,
            context.store_dir,
            judge=context.name,
            actor=context.actor,
            num_actors=context.num_actors,
        )
        self._client: Client | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._in_flight: dict[str, asyncio.Future[None]] = {}

    async def start(self) -> None:
        """Read the store, take a place in the budget, and send one request of one token, which is counted.

        Raises UsageError if the key is missing or refused, the endpoint unreachable or the model unknown there.
        """
        self._store.refresh()
        self._budget.start(self._store.spent())
        try:
            answer = await self._reach()
        except InfraError as error:
            raise UsageError(str(error)) from error
        except DataError as error:
            if error.reason == "budget_spent":
                return  # a resumed run whose budget is spent already; every verdict will say so
            raise UsageError(
                f"judge.endpoint {self._connected().endpoint} does not serve {self.config.model!r} as configured: "
                f"{error.detail}; start it, or mend judge.endpoint, judge.model or judge.extra_body"
            ) from error
        if self.config.method == "logprobs" and not answer.top:
            raise UsageError(
                f"judge.endpoint {self._connected().endpoint} gives no log-probabilities, which judge.method logprobs "
                "reads; set judge.method to json"
            )

    async def close(self) -> None:
        """Let connections and files go."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        await self._store.close()

    def report(self) -> JudgeReport:
        """Counts and notices since the last report."""
        if self._budget.refused_for:
            self._notices.append(
                f"{self._budget.refused_for} is spent: what is left of this is not judged by {self.judge_id}"
            )
            self._budget.refused_for = ""
        for name, count in self._store.num_unreadable.items():
            self._notices.append(
                f"{count} lines of {name} in the verdict store cannot be read, and are asked for again"
            )
        self._store.num_unreadable.clear()
        found = JudgeReport(counts=dict(self._counts), notices=tuple(self._notices))
        self._counts.clear()
        self._notices.clear()
        return found

    async def each(self, items: Sequence[T], work: Callable[[T, Chunk], Coroutine[Any, Any, R]]) -> list[R]:
        """Work on all items, as many at a time as requests may be in flight; results in their order, and durable.

        Raises InfraError if the endpoint refuses the key or the model, or if it answered nothing at all and does not
        answer a last question either.
        """
        self._store.refresh()
        self._connected().begin()
        chunk = Chunk(deadline_s=asyncio.get_running_loop().time() + self.config.stage_timeout_s)
        results: dict[int, R] = {}
        queue = iter(enumerate(items))

        async def worker() -> None:
            for place, item in queue:
                results[place] = await work(item, chunk)

        await _together([worker() for _ in range(min(len(items), self.config.concurrency))])
        await self._store.flush()
        if chunk.num_failed and not chunk.num_answered and chunk.stopped is None:
            await self._still_there(chunk.num_failed)
        if chunk.stopped is not None:
            raise chunk.stopped
        return [results[place] for place in range(len(items))]

    async def ask(
        self, parts: Mapping[str, str], about: Mapping[str, int | str], *, chunk: Chunk, trail: Trail
    ) -> float | DataError:
        """The value of one answer, or why there is none. about: order, sample and reask of this question."""
        reask = int(about["reask"])
        messages = self._rubric.render(frame(parts, salt=self._context.salt, reask=reask))
        request = make_request(self.config, self._rubric, messages, sample=int(about["sample"]), reask=reask)
        while request.key in self._in_flight:  # asked by someone else in this very moment
            await asyncio.wait({self._in_flight[request.key]})
        kept = self._store.get(request.key)
        answer: Answer | None = None
        value: float | DataError
        if kept is not None:
            answer = Answer.of(kept)
            value = self._read(answer)
            self._counts["cache_hits"] += 1
        else:
            answer, value = await self._ask_endpoint(request, chunk)
            self._counts["reasks"] += reask > 0
        trail.note(about, answer, value)
        return value

    async def _ask_endpoint(self, request: Request, chunk: Chunk) -> tuple[Answer | None, float | DataError]:
        if chunk.stopped is not None:
            return None, DataError("endpoint_failed", str(chunk.stopped))
        done = self._in_flight[request.key] = asyncio.get_running_loop().create_future()
        try:
            found = await self._connected().ask(request, self._read, chunk.deadline_s)
            chunk.num_answered += 1
            return found
        except DataError as failure:
            chunk.num_failed += failure.reason in FAILED_OVER - {"budget_spent"}
            return None, failure
        except InfraError as error:
            chunk.stopped = error
            return None, DataError("endpoint_failed", str(error))
        finally:
            del self._in_flight[request.key]
            done.set_result(None)

    def _connected(self) -> Client:
        """The client of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._loop, self._in_flight = loop, {}
            self._client = Client(
                self.config,
                key=read_key(self.config),
                store=self._store,
                budget=self._budget,
                counts=self._counts,
                num_actors=self._context.num_actors,
            )
        return self._client

    async def _reach(self) -> Answer:
        """Ask for one token, past the store. Raises what Client.ask raises."""
        messages = [{"role": "user", "content": _PROBE}]
        config = self.config.model_copy(update={"max_tokens": 1})
        deadline_s = asyncio.get_running_loop().time() + self.config.stage_timeout_s
        request = make_request(config, self._rubric, messages)
        answer, _ = await self._connected().ask(request, _unread, deadline_s)
        return answer

    async def _still_there(self, num_failed: int) -> None:
        self._connected().begin()
        try:
            await self._reach()
        except DataError as error:
            if error.reason in FAILED_OVER:
                raise InfraError(
                    f"judge.endpoint {self._connected().endpoint} answered none of {num_failed} requests: "
                    f"{error.detail}; see that it runs, and run the same command again"
                ) from error


def _unread(answer: Answer) -> float:
    raise DataError("probe")  # so that the store does not keep it


async def _together(workers: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all of them; where one fails, the others end before its error is raised."""
    tasks = [asyncio.create_task(worker) for worker in workers]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
