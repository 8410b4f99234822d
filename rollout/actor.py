"""The rollout worker as a Ray actor: one event loop and no concurrency groups, each of which would have its own."""

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from rollout.config import RolloutConfig
from rollout.errors import InfraError
from rollout.lean import import_transformers_lean
from rollout.types import GroupShard, LoadReport, Logps, PolicyRef, Progress, PromptChunk, Sampling, TokenSequence

if TYPE_CHECKING:  # whoever only calls the actor loads neither torch nor transformers
    from rollout.worker import RolloutWorker


@ray.remote
class RolloutActor:
    """One engine. encoding: the arguments of PromptEncoder other than path and max_prompt_tokens."""

    def __init__(
        self, *, index: int, settings: RolloutConfig, run_dir: str, dtype: str, seed: int, **encoding: Any
    ) -> None:
        self._index, self._settings, self._run_dir = index, settings, Path(run_dir)
        self._how = {"index": index, "dtype": dtype, "seed": seed, **encoding}
        self._worker: RolloutWorker | None = None
        self._version: int | None = None
        # Imports take longer than most of what else has to happen before start(), so they begin at once.
        self._warming = threading.Thread(target=self._warm, daemon=True)
        self._warming.start()

    def __repr__(self) -> str:
        return f"rollout-{self._index}" + ("" if self._version is None else f" v{self._version}")

    async def node_id(self) -> str:
        """The node that has room for this engine; answers as soon as its process is there."""
        return str(ray.get_runtime_context().get_node_id())

    async def start(self, policy: PolicyRef) -> None:
        # Two threads that import the same large package at once see it half made.
        await asyncio.to_thread(self._warming.join)
        if self._worker is None:
            self._worker = self._make_worker(self._run_dir / policy.path)
        await self._worker.start(policy)
        self._version = policy.version

    async def load(self, policy: PolicyRef) -> LoadReport:
        report = await self._started().load(policy)
        self._version = policy.version
        return report

    async def generate(self, chunk: PromptChunk, policy: PolicyRef, sampling: Sampling) -> GroupShard:
        return await self._started().generate(chunk, policy, sampling)

    async def try_out(self, chunk: PromptChunk, policy: PolicyRef, sampling: Sampling) -> None:
        await self._started().try_out(chunk, policy, sampling)

    async def score(self, sequences: Sequence[TokenSequence]) -> list[Logps]:
        return await self._started().score(sequences)

    async def progress(self) -> Progress:
        return Progress() if self._worker is None else self._worker.num_completed()

    async def close(self) -> None:
        if self._worker is not None:
            await self._worker.close()

    def _warm(self) -> None:
        import_transformers_lean()
        from rollout.build import engine_class

        engine_class(self._settings.engine).warm()

    def _started(self) -> "RolloutWorker":
        if self._worker is None:
            raise InfraError(f"{self!r} has no engine yet: its process is new, and start() comes first")
        return self._worker

    def _make_worker(self, folder: Path) -> "RolloutWorker":
        from rollout.build import build_worker

        return build_worker(folder, settings=self._settings, run_dir=self._run_dir, **self._how)
