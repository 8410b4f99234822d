"""An engine of fixed service time that computes nothing, for benches and tests of all that is around engines."""

import asyncio
import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rollout.config import RolloutConfig
from rollout.engine import completion_budget, context_tokens
from rollout.errors import InfraError
from rollout.types import Completion, LoadReport, Logps, PolicyRef, Sampling, TokenIds, TokenSequence, WeightSpan
from rollout.weight_source import WeightSource

# Seconds in which every running completion gains one token.
STEP_S = 0.01
_FIRST_PLAIN_ID = 3


class SimulatedEngine:
    """See `rollout.engine.Engine`; reproducible. max_num_seqs completions run at once, the others wait their turn.

    Completions have their full length, of ids that follow from the key, the index and the version; log-probabilities
    are all -1.
    """

    def __init__(
        self, *, settings: RolloutConfig, stop_ids: Sequence[int], dtype: str, seed: int = 0, index: int = 0
    ) -> None:
        self._settings = settings
        self._seed = seed
        self._places = asyncio.Semaphore(max(1, settings.max_num_seqs // settings.num_completions))
        self.policy: PolicyRef | None = None
        self.context_tokens = 0

    @staticmethod
    def warm() -> None:
        """Nothing takes long to import."""

    async def start(self, policy: PolicyRef, path: Path) -> None:
        if self.policy != policy:
            await self.load(policy, path)

    async def load(self, policy: PolicyRef, path: Path, weights: WeightSource | None = None) -> LoadReport:
        started = time.monotonic()
        self.context_tokens = context_tokens(path, self._settings.max_model_len)
        self.policy = policy
        return LoadReport(version=policy.version, seconds=time.monotonic() - started, size_bytes=0)

    async def generate(self, prompt_token_ids: TokenIds, sampling: Sampling, *, key: str) -> tuple[Completion, ...]:
        num_tokens = completion_budget(len(prompt_token_ids), sampling, self.context_tokens)
        async with self._places:
            version = self._held().version
            await asyncio.sleep(num_tokens * STEP_S)
        return tuple(
            Completion(
                index=index,
                token_ids=self._token_ids(f"{key}/{index}/{version}", num_tokens),
                logps=np.full(num_tokens, -1.0, np.float32),
                text="",
                finish_reason="length",
                seed=self._seed,
                weight_versions=(WeightSpan(version=version, start=0, end=num_tokens),),
            )
            for index in range(sampling.num_completions)
        )

    async def score(self, sequence: TokenSequence) -> Logps:
        self._held()
        return np.full(len(sequence.completion_ids), -1.0, np.float32)

    async def close(self) -> None:
        self.policy = None

    def _held(self) -> PolicyRef:
        if self.policy is None:
            raise InfraError("the simulated engine was not started")
        return self.policy

    def _token_ids(self, key: str, num_tokens: int) -> TokenIds:
        digest = hashlib.sha256(f"{self._seed}/{key}".encode()).digest()
        drawn = np.random.default_rng(np.frombuffer(digest, np.uint32)).integers(_FIRST_PLAIN_ID, 64, num_tokens)
        return drawn.astype(np.int32)
