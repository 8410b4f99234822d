"""A sequence classifier behind vLLM's pooling server: the same rows of token ids, the same raw logits, over HTTP."""

import asyncio
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt, wait_exponential_jitter

from judge.reward.config import RewardModelBackend
from judge.reward.source import Logits, check_label
from rollout.errors import DataError, UsageError
from rollout.types import TokenIds

FAILED = "endpoint_failed"
_MAX_WAIT_S = 60.0
_back_off = wait_exponential_jitter(initial=0.5, max=_MAX_WAIT_S)


class _Transient(Exception):
    """A request that may succeed when it is sent again; retry_after_s: when the server asks for it."""

    def __init__(self, detail: str, retry_after_s: float | None = None) -> None:
        super().__init__(detail, retry_after_s)
        self.detail = detail
        self.retry_after_s = retry_after_s


class PoolingServer:
    """Asks `POST <endpoint>/classify` with token ids and `use_activation: false`, which answers raw logits.

    Connection errors, 408, 409, 429, 5xx and answers that are no JSON are retried, max_attempts in all; what fails for
    good is a DataError with reason endpoint_failed. counts: requests sent, retries, tokens sent.
    """

    def __init__(self, config: RewardModelBackend) -> None:
        assert config.endpoint is not None
        self._config = config
        self._url = config.endpoint.rstrip("/").removesuffix("/v1") + "/classify"
        key = os.environ.get(config.api_key_env)
        limits = httpx.Limits(max_connections=config.concurrency, max_keepalive_connections=config.concurrency)
        self._client = httpx.AsyncClient(
            timeout=config.timeout_s, limits=limits, headers={"Authorization": f"Bearer {key}"} if key else {}
        )
        self._slots = asyncio.Semaphore(config.concurrency)
        self.counts: Counter[str] = Counter()

    async def start(self, probe: TokenIds) -> None:
        """Score one row. Raises UsageError where there is no answer, or the head is the wrong one."""
        try:
            found = (await self._ask([probe]))[0]
        except DataError as error:
            raise UsageError(
                f"judge.endpoint {self._url} does not score with {self._config.model}: {error.detail}; start "
                "`vllm serve MODEL --runner pooling`, or mend judge.endpoint, judge.model or the key"
            ) from error
        check_label(len(found), self._config.label, self._config.model)

    async def close(self) -> None:
        """Let the connections go."""
        await self._client.aclose()

    async def logits(self, rows: Sequence[TokenIds]) -> list[Logits | DataError]:
        """Raw logits of each row; rows that are refused together are sent in halves, down to the one at fault."""
        try:
            return list(await self._ask(rows))
        except _Refused as error:
            if len(rows) == 1:
                return [DataError(FAILED, error.detail)]
            half = len(rows) // 2
            left, right = await asyncio.gather(self.logits(rows[:half]), self.logits(rows[half:]))
            return left + right
        except DataError as error:
            return [DataError(FAILED, error.detail)] * len(rows)

    async def _ask(self, rows: Sequence[TokenIds]) -> list[Logits]:
        body = {
            "model": self._config.model,
            "input": [row.tolist() for row in rows],
            "add_special_tokens": False,
            "use_activation": False,
        }
        attempts = AsyncRetrying(
            stop=stop_after_attempt(self._config.max_attempts),
            wait=_wait_s,
            retry=retry_if_exception_type(_Transient),
            reraise=True,
        )
        try:
            async for attempt in attempts:
                with attempt:
                    self.counts["requests"] += 1
                    self.counts["retries"] += attempt.retry_state.attempt_number > 1
                    self.counts["tokens"] += sum(map(len, rows))
                    async with self._slots:
                        return _read(await self._post(body), len(rows))
        except _Transient as error:
            raise DataError(FAILED, f"{error.detail} ({self._config.max_attempts} attempts)") from error
        raise AssertionError("the loop above returns or raises")

    async def _post(self, body: Mapping[str, Any]) -> Any:
        try:
            response = await self._client.post(self._url, json=body)
        except httpx.InvalidURL as error:
            raise DataError(FAILED, f"{self._url} is no URL: {error}") from error
        except httpx.RequestError as error:
            raise _Transient(f"{type(error).__name__}: {error}") from error
        if response.status_code in (408, 409, 429) or response.status_code >= 500:
            raise _Transient(f"HTTP {response.status_code}: {response.text[:200]}", _retry_after_s(response))
        if response.status_code in (401, 403, 404):
            raise DataError(FAILED, f"HTTP {response.status_code}: {response.text[:200]}")
        if response.status_code != 200:
            raise _Refused(FAILED, f"HTTP {response.status_code}: {response.text[:200]}")
        try:
            return response.json()
        except ValueError as error:
            raise _Transient(f"the answer is no JSON: {response.text[:100]!r}") from error


class _Refused(DataError):
    """The server will not take these rows, perhaps because of one of them."""


def _read(answer: Any, num_rows: int) -> list[Logits]:
    """The rows' logits in the order of the request. Raises _Transient where the answer is not one for each row."""
    try:
        by_index = {int(one["index"]): [float(value) for value in one["probs"]] for one in answer["data"]}
        return [by_index[index] for index in range(num_rows)]
    except (KeyError, TypeError, ValueError) as error:
        raise _Transient(f"the answer lacks {error} for some of {num_rows} rows") from error


def _wait_s(state: RetryCallState) -> float:
    """What the server asks for, within reason; else exponential back-off with jitter."""
    error = state.outcome.exception() if state.outcome else None
    if isinstance(error, _Transient) and error.retry_after_s is not None:
        return min(error.retry_after_s, _MAX_WAIT_S)
    return _back_off(state)


def _retry_after_s(response: httpx.Response) -> float | None:
    try:
        return max(0.0, float(response.headers["retry-after"]))
    except (KeyError, ValueError):  # absent, or a date, which back-off does well enough for
        return None
