"""Sends requests to the endpoint: paced, budgeted, retried by our own rules, and every attempt counted.

The client of the openai package sends; its own retries are off, so that each attempt and its cost are seen.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import openai

from judge.llm.budget import Budget
from judge.llm.config import LlmBackend
from judge.llm.failures import Failure, failure_of
from judge.llm.limits import Breaker, Pacer
from judge.llm.reading import Answer, Usage, parse_response
from judge.llm.request import Request
from judge.llm.secret import NO_KEY, OPENAI
from judge.store import Cost, VerdictStore
from rollout.errors import DataError

_FIRST_BACKOFF_S = 0.5
_FAILURES_TO_OPEN = 20
Reader = Callable[[Answer], float]


class Client:
    """The way to one endpoint for one event loop; num_actors share its limits evenly.

    counts grows by requests, failed_<kind>, prompt_tokens, completion_tokens, tokens_assumed, money, latency_s.
    """

    def __init__(
        self,
        config: LlmBackend,
        *,
        key: str,
        store: VerdictStore,
        budget: Budget,
        counts: defaultdict[str, float],
        num_actors: int = 1,
    ) -> None:
        self._config, self._key, self._store, self._budget, self._counts = config, key, store, budget, counts
        self.endpoint = config.endpoint or OPENAI
        concurrency = max(1, config.concurrency // num_actors)
        self._slots = asyncio.Semaphore(concurrency)
        self._pacers = [
            (None if limit is None else Pacer(per_minute=limit / num_actors))
            for limit in (config.requests_per_minute, config.tokens_per_minute)
        ]
        self._breaker = Breaker(
            threshold=_FAILURES_TO_OPEN, max_probes=config.max_attempts, max_pause_s=config.max_backoff_s
        )
        self._openai = openai.AsyncOpenAI(
            api_key=key,
            base_url=self.endpoint,
            max_retries=0,
            timeout=config.timeout_s,
            http_client=_transport(self.endpoint),
        )

    def begin(self) -> None:
        """A new piece of work begins: what failed before may work again."""
        self._breaker.revive()

    async def close(self) -> None:
        """Close the connections."""
        await self._openai.close()

    async def ask(self, request: Request, read: Reader, deadline_s: float) -> tuple[Answer, float | DataError]:
        """The answer to a request and what `read` makes of it, or the reason why it cannot be read.

        An answer that can be read is in the store when this returns. Raises DataError: endpoint_failed, deadline,
        budget_spent, refused_by_endpoint; InfraError where the endpoint refuses the key or the model.
        """
        async with self._slots:
            attempt = 1
            while True:
                found = await self._attempt(request, read, deadline_s)
                if not isinstance(found, Failure):
                    return found
                if found.stop is not None:
                    raise found.stop
                if attempt == self._config.max_attempts:
                    raise DataError("endpoint_failed", f"{attempt} attempts; last: {found.what}")
                await _pause(self._pause_s(found, request, attempt), deadline_s, found.what)
                attempt += 1

    async def _attempt(
        self, request: Request, read: Reader, deadline_s: float
    ) -> tuple[Answer, float | DataError] | Failure:
        probe = await self._breaker.admit(deadline_s)
        try:
            found = await self._within_budget(request, read, deadline_s)
        except BaseException:
            if probe:
                self._breaker.abandoned()
            raise
        if isinstance(found, Failure) and found.endpoint_down:
            self._breaker.failed(found.what, probe=probe)
        else:
            self._breaker.succeeded()
        return found

    async def _within_budget(
        self, request: Request, read: Reader, deadline_s: float
    ) -> tuple[Answer, float | DataError] | Failure:
        most = self._budget.cost(
            prompt_tokens=request.max_prompt_tokens, completion_tokens=request.max_completion_tokens
        )
        await self._budget.reserve(most, deadline_s)
        spent, kept = Cost(), False
        try:
            likely = request.likely_prompt_tokens + request.max_completion_tokens
            await self._pace(likely, deadline_s)
            if asyncio.get_running_loop().time() >= deadline_s:
                raise DataError("deadline", "judge.stage_timeout_s passed before it was sent")
            spent = most  # until more is known: what is on its way may have to be paid
            found, usage = await self._exchange(request, deadline_s)
            spent = self._charge(found, usage, most)
            if isinstance(found, Failure):
                return found
            if self._pacers[1] is not None and usage is not None:
                self._pacers[1].settle(likely - spent.tokens)
            try:
                value = read(found)
            except DataError as unreadable:
                return found, unreadable
            self._store.put(request.key, found.kept(), spent)
            kept = True
            return found, value
        finally:
            self._budget.settle(most, spent)
            if spent.requests and not kept:
                self._store.spend(spent)

    async def _exchange(self, request: Request, deadline_s: float) -> tuple[Answer | Failure, Usage | None]:
        clock = asyncio.get_running_loop().time
        started_s = clock()
        self._counts["requests"] += 1
        try:
            return parse_response(await self._send(request, min(self._config.timeout_s, deadline_s - started_s)))
        except (openai.OpenAIError, TimeoutError, ValueError) as error:
            failure = failure_of(error, key=self._key, endpoint=self.endpoint, model=self._config.model)
            self._counts[f"failed_{failure.kind}"] += 1
            return failure, None
        finally:
            self._counts["latency_s"] += clock() - started_s

    async def _send(self, request: Request, timeout_s: float) -> bytes:
        async with asyncio.timeout(timeout_s):
            body: bytes = await self._openai.post("/chat/completions", content=request.body, cast_to=bytes)
        if self._key != NO_KEY and self._key.encode() in body:
            body = body.replace(self._key.encode(), b"(key)")
        return body

    async def _pace(self, tokens: int, deadline_s: float) -> None:
        now_s = asyncio.get_running_loop().time()
        waits = [
            pacer.wait_s(cost, now_s=now_s)
            for pacer, cost in zip(self._pacers, (1, tokens), strict=True)
            if pacer is not None
        ]
        if waits and max(waits) > 0.0:
            await _pause(max(waits), deadline_s, "the limits of requests and tokens per minute")

    def _charge(self, found: Answer | Failure, usage: Usage | None, most: Cost) -> Cost:
        """What an attempt cost: by the endpoint's count, or all that was set aside where it may cost and gave none."""
        if usage is not None:
            spent = self._budget.cost(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens)
            self._counts["prompt_tokens"] += usage.prompt_tokens
            self._counts["completion_tokens"] += usage.completion_tokens
        elif isinstance(found, Failure) and not found.may_cost:
            spent = Cost(requests=1)
        else:
            spent = most
            self._counts["tokens_assumed"] += spent.tokens
        self._counts["money"] += spent.money
        return spent

    def _pause_s(self, failure: Failure, request: Request, attempt: int) -> float:
        """Exponential back-off with full jitter, drawn from the request itself; never less than the endpoint asked."""
        ceiling_s = min(self._config.max_backoff_s, _FIRST_BACKOFF_S * 2.0 ** min(attempt - 1, 30))
        jittered_s = random.Random(f"{request.key}:{attempt}").uniform(0.0, ceiling_s)
        return jittered_s if failure.wait_s is None else failure.wait_s + min(jittered_s, 0.1)


def _transport(endpoint: str) -> Any:
    """aiohttp's transport, which takes a third of the time of the default one; redirects would carry answers away."""
    return openai.DefaultAioHttpClient(follow_redirects=False, verify=endpoint.startswith("https:"))


async def _pause(seconds: float, deadline_s: float, why: str) -> None:
    if asyncio.get_running_loop().time() + seconds > deadline_s:
        raise DataError("deadline", f"judge.stage_timeout_s would pass during a pause of {seconds:.3g} s after: {why}")
    await asyncio.sleep(seconds)
