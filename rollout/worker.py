"""Prompt chunks in, durable shards of completion groups out."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from rollout.adapter import adapter_base, base_folder
from rollout.config import RolloutConfig
from rollout.encoder import PromptEncoder
from rollout.engine import Engine
from rollout.errors import DataError, InfraError, IntegrityError
from rollout.files import hash_policy, read_json
from rollout.groups import write_groups
from rollout.shared_weights import ask_for_offers, offered_weights
from rollout.types import (
    ENGINE_CRASHED,
    Completion,
    CompletionGroup,
    GroupShard,
    LoadReport,
    Logps,
    PolicyRef,
    Progress,
    Prompt,
    PromptChunk,
    Sampling,
    TokenSequence,
)
from rollout.weight_source import WeightSource


class RolloutWorker:
    """Drives one engine: messages to tokens, tokens to completions, completions to shards.

    All methods belong to one event loop; generate() may be awaited for many chunks at once.
    """

    def __init__(self, *, engine: Engine, encoder: PromptEncoder, run_dir: Path, settings: RolloutConfig) -> None:
        self._engine = engine
        self._encoder = encoder
        self._run_dir = run_dir
        self._settings = settings
        self._changing = asyncio.Lock()
        self._chunks: dict[Path, asyncio.Lock] = {}
        self._progress = Progress()
        self._checked_base: tuple[Path, str] | None = None
        if settings.weight_sync == "auto":
            ask_for_offers(run_dir)

    async def start(self, policy: PolicyRef) -> None:
        """Make the engine ready to sample from a policy, whatever state it is in.

        Raises IntegrityError if the policy's files are not what was published, InfraError if the engine cannot start.
        """
        async with self._changing:
            if self._engine.policy != policy:
                await self._engine.start(policy, await self._checked_folder(policy))

    async def load(self, policy: PolicyRef) -> LoadReport:
        """Change the weights of a running engine, from memory that the learner shares or from the policy's folder.

        Raises what start() raises.
        """
        async with self._changing:
            with self._offered(policy) as weights:
                folder = self._run_dir / policy.path if weights else await self._checked_folder(policy)
                return await self._engine.load(policy, folder, weights)

    async def generate(self, chunk: PromptChunk, policy: PolicyRef, sampling: Sampling) -> GroupShard:
        """Sample the groups of a chunk and make them durable, in the order of its prompts.

        A finished shard is returned as it is. Prompts that cannot be used are counted in `rejected`. Raises
        InfraError if the engine holds another policy or fails, IntegrityError if the finished shard is of another one.
        """
        async with self._within_deadline(chunk):
            return await self._generate(chunk, policy, sampling)

    async def try_out(self, chunk: PromptChunk, policy: PolicyRef, sampling: Sampling) -> None:
        """Sample the groups of a chunk and keep nothing: all that is asked is whether the engine survives it.

        Raises what generate() raises.
        """
        async with self._within_deadline(chunk):
            self._refuse_other_policy(policy)
            await _all([self._group(chunk, prompt, sampling) for prompt in chunk.prompts])

    async def score(self, sequences: Sequence[TokenSequence]) -> list[Logps]:
        """Teacher-forced log-probabilities of each completion under the engine's policy, float32[T] in nats."""
        return await _all([self._engine.score(sequence) for sequence in sequences])

    def num_completed(self) -> Progress:
        """Counts of what was generated so far."""
        return self._progress

    async def close(self) -> None:
        """Give back what the engine holds."""
        await self._engine.close()

    @asynccontextmanager
    async def _within_deadline(self, chunk: PromptChunk) -> AsyncIterator[None]:
        limit_s = self._settings.generate_timeout_s
        try:
            async with asyncio.timeout(limit_s):
                yield
        except TimeoutError as error:
            raise InfraError(
                f"shard {chunk.chunk_id} of round {chunk.round_id} ({len(chunk.prompts)} prompts) was not done within "
                f"rollout.generate_timeout_s = {limit_s:g} s"
            ) from error

    async def _generate(self, chunk: PromptChunk, policy: PolicyRef, sampling: Sampling) -> GroupShard:
        manifest = self._run_dir / chunk.shard_dir / f"{chunk.chunk_id:05d}.json"
        # A chunk that is asked for twice, by a caller who lost the first answer, is generated once.
        async with self._chunks.setdefault(manifest, asyncio.Lock()):
            if (shard := self._finished(manifest, policy, sampling)) is not None:
                return shard
            self._refuse_other_policy(policy)
            answers = await _all([self._group(chunk, prompt, sampling) for prompt in chunk.prompts])
            return await asyncio.to_thread(self._write, manifest, chunk, policy, sampling, answers)

    def _offered(self, policy: PolicyRef) -> AbstractContextManager[WeightSource | None]:
        """What the learner shares, if this engine can take it in place: one with adapters goes by folders."""
        held = self._engine.policy
        in_place = held is not None and held.kind == "full" and self._settings.max_lora_rank is None
        if self._settings.weight_sync == "folder" or not in_place:
            return nullcontext()
        return offered_weights(self._run_dir, policy, self._run_dir / policy.path)

    async def _checked_folder(self, policy: PolicyRef) -> Path:
        folder = self._run_dir / policy.path
        found = await asyncio.to_thread(hash_policy, folder)
        if found != policy.sha256:
            raise IntegrityError(
                f"{folder} has sha256 {found[:12]}, expected {policy.sha256[:12]}: policy v{policy.version} was "
                "altered after it was published; restore it, or fork the run from an earlier round"
            )
        await asyncio.to_thread(self._check_base, policy, folder)
        return folder

    def _check_base(self, policy: PolicyRef, folder: Path) -> None:
        """An adapter is nothing without the very base that it was trained on, which is read through once."""
        base = adapter_base(folder)
        if base is None or self._checked_base == (base_folder(folder), base.sha256):
            return
        found = hash_policy(base_folder(folder))
        if found != base.sha256:
            raise IntegrityError(
                f"{base_folder(folder)} has sha256 {found[:12]}, but the adapter of policy v{policy.version} belongs "
                f"to base {base.sha256[:12]}; put that base back, or fork the run from an earlier round"
            )
        self._checked_base = (base_folder(folder), base.sha256)

    def _finished(self, manifest: Path, policy: PolicyRef, sampling: Sampling) -> GroupShard | None:
        if not manifest.exists():
            return None
        shard = read_json(manifest, GroupShard)
        if (shard.policy_sha256, shard.sampling) != (policy.sha256, sampling):
            raise IntegrityError(
                f"{manifest} was sampled by policy v{shard.policy_version} ({shard.policy_sha256[:12]}) with "
                f"{shard.sampling}, asked for was v{policy.version} ({policy.sha256[:12]}) with {sampling}; "
                "keep shards of different policies in different folders"
            )
        return shard

    def _refuse_other_policy(self, policy: PolicyRef) -> None:
        held = self._engine.policy
        if held != policy:
            holds = "no policy" if held is None else f"v{held.version} ({held.sha256[:12]})"
            raise InfraError(
                f"the engine holds {holds}, asked for was v{policy.version} ({policy.sha256[:12]}); load that first"
            )

    async def _group(self, chunk: PromptChunk, prompt: Prompt, sampling: Sampling) -> CompletionGroup | DataError:
        if prompt.prompt_id in chunk.quarantined:
            return DataError(ENGINE_CRASHED, prompt.prompt_id)
        try:
            token_ids = self._encoder.encode(prompt)
            completions = await self._engine.generate(
                token_ids, sampling, key=f"{chunk.shard_dir}, prompt {prompt.prompt_id}"
            )
        except DataError as error:  # handed on as a value: one prompt less, the chunk goes on
            return error
        kept = tuple(one for one in completions if one.finish_reason != "abort")
        if not kept:
            return DataError("generation_aborted", prompt.prompt_id)
        self._progress = Progress(
            num_completions=self._progress.num_completions + len(kept),
            num_tokens=self._progress.num_tokens + sum(len(one.token_ids) for one in kept),
        )
        return CompletionGroup(prompt=prompt, prompt_token_ids=token_ids, completions=kept)

    def _write(
        self,
        manifest: Path,
        chunk: PromptChunk,
        policy: PolicyRef,
        sampling: Sampling,
        answers: Sequence[CompletionGroup | DataError],
    ) -> GroupShard:
        # Another engine may have been given the chunk meanwhile; what is durable already is not replaced.
        if (shard := self._finished(manifest, policy, sampling)) is not None:
            return shard
        rejected: dict[str, tuple[str, ...]] = {}
        for prompt, answer in zip(chunk.prompts, answers, strict=True):
            if isinstance(answer, DataError):
                rejected[answer.reason] = (*rejected.get(answer.reason, ()), prompt.prompt_id)
        return write_groups(
            run_dir=self._run_dir,
            chunk=chunk,
            groups=[self._with_text(answer) for answer in answers if isinstance(answer, CompletionGroup)],
            policy=policy,
            sampling=sampling,
            signature=self._encoder.signature,
            rejected=rejected,
        )

    def _with_text(self, group: CompletionGroup) -> CompletionGroup:
        def decoded(completion: Completion) -> Completion:
            return replace(completion, text=self._encoder.decode(completion.token_ids))

        return replace(group, completions=tuple(decoded(one) for one in group.completions))


async def _all(coroutines: Sequence[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Await all side by side; the first failure cancels the others, so that nothing goes on unattended."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
