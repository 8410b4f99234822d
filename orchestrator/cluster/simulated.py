"""Stages that take a fixed time and think of nothing, as Ray actors: benches of all that lies between real ones.

They keep the contract of those they stand for: completion groups and preference pairs are durable, valid shards.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from judge.shards import write_pairs, write_verdicts
from judge.types import JudgeReport, PairShard, PreferencePair, Score
from learner.types import LearnerUpdate, StepMetrics
from rollout.shards import read_groups, write_groups
from rollout.types import (
    Completion,
    CompletionGroup,
    GroupShard,
    LoadReport,
    PolicyRef,
    Progress,
    Prompt,
    PromptChunk,
    Sampling,
    TokenSignature,
    WeightSpan,
)

_NUM_TOKENS = 16
_JUDGE_ID = "simulated"
_SIGNATURE = TokenSignature(tokenizer="none", chat_template="none", template_kwargs="none", stop_ids=(0,))


def simulated(kind: type, *, service_s: float = 0.0) -> Any:
    """The Ray actor class of a stage below, which takes service_s for each of its calls."""
    return ray.remote(type(kind.__name__, (kind,), {"service_s": service_s}))


class SimulatedEngine:
    """Stands for RolloutActor: one chunk after the other."""

    service_s = 0.0

    def __init__(self, *, run_dir: str, **settings: Any) -> None:
        self._run_dir = Path(run_dir)
        self._turn = asyncio.Lock()
        self._num_tokens = 0

    async def start(self, policy: PolicyRef) -> None:
        pass

    async def load(self, policy: PolicyRef) -> LoadReport:
        return LoadReport(version=policy.version, seconds=0.0, size_bytes=0)

    async def progress(self) -> Progress:
        return Progress(num_tokens=self._num_tokens)

    async def generate(self, chunk: PromptChunk, policy: PolicyRef, sampling: Sampling) -> GroupShard:
        async with self._turn:
            await asyncio.sleep(self.service_s)
        groups = [_group(prompt, sampling.num_completions, policy.version) for prompt in chunk.prompts]
        self._num_tokens += len(groups) * sampling.num_completions * _NUM_TOKENS
        return write_groups(
            run_dir=self._run_dir,
            chunk=chunk,
            groups=groups,
            policy=policy,
            sampling=sampling,
            signature=_SIGNATURE,
            rejected={},
        )


class SimulatedJudge:
    """Stands for JudgeActor: prefers the first of a prompt's completions to the second."""

    service_s = 0.0

    def __init__(self, *, run_dir: str, **settings: Any) -> None:
        self._run_dir = Path(run_dir)

    async def start(self) -> str:
        return _JUDGE_ID

    async def report(self) -> JudgeReport:
        return JudgeReport()

    async def build(self, shard: GroupShard, *, verdict_dir: str, pair_dir: str, num_chunks: int) -> PairShard:
        await asyncio.sleep(self.service_s)
        groups = read_groups(self._run_dir, shard)
        write_verdicts(
            run_dir=self._run_dir,
            shard_dir=verdict_dir,
            groups=[shard],
            answers=[_score(group, index) for group in groups for index in range(len(group.completions))],
            judge_id=_JUDGE_ID,
        )
        pairs = [_pair(group, shard) for group in groups]
        return write_pairs(
            run_dir=self._run_dir, shard_dir=pair_dir, groups=shard, pairs=pairs, rejected={}, num_abstained={}
        )


class SimulatedLearner:
    """Stands for LearnerActor: a single step, and a policy that is a name alone."""

    service_s = 0.0

    def __init__(self, **settings: Any) -> None:
        pass

    def start(self, base: PolicyRef, policy: PolicyRef) -> None:
        pass

    @ray.method(num_returns="streaming")  # type: ignore[untyped-decorator]
    def train(
        self, *, round_id: int, shards: Sequence[PairShard], policy_in: PolicyRef
    ) -> Iterator[StepMetrics | LearnerUpdate]:
        time.sleep(self.service_s)
        yield StepMetrics(step=1, num_steps=1, values={})
        version = round_id + 1
        policy = PolicyRef(version=version, path=f"policies/v{version:04d}", sha256=f"{version:064d}")
        yield LearnerUpdate(policy_out=policy, num_steps=1, num_pairs=sum(shard.num_pairs for shard in shards))


def _group(prompt: Prompt, num_completions: int, version: int) -> CompletionGroup:
    token_ids = np.arange(_NUM_TOKENS, dtype=np.int32)
    return CompletionGroup(
        prompt=prompt,
        prompt_token_ids=token_ids,
        completions=tuple(
            Completion(
                index=index,
                token_ids=token_ids,
                logps=np.full(_NUM_TOKENS, -1.0, np.float32),
                text="an answer",
                finish_reason="stop",
                seed=None,
                weight_versions=(WeightSpan(version=version, start=0, end=_NUM_TOKENS),),
            )
            for index in range(num_completions)
        ),
    )


def _score(group: CompletionGroup, index: int) -> Score:
    return Score(
        prompt_id=group.prompt.prompt_id, index=index, value=-float(index), judge_id=_JUDGE_ID, source="function"
    )


def _pair(group: CompletionGroup, shard: GroupShard) -> PreferencePair:
    chosen, rejected = group.completions[:2]
    return PreferencePair(
        pair_id=f"{shard.round_id}-{group.prompt.prompt_id}",
        content_hash="",
        round_id=shard.round_id,
        prompt_id=group.prompt.prompt_id,
        prompt=group.prompt.messages,
        chosen=chosen.text,
        rejected=rejected.text,
        prompt_ids=group.prompt_token_ids,
        chosen_ids=chosen.token_ids,
        rejected_ids=rejected.token_ids,
        chosen_logps=chosen.logps,
        rejected_logps=rejected.logps,
        outcome="chosen",
        score_chosen=0.0,
        score_rejected=-1.0,
        margin=1.0,
        p_chosen=None,
        policy_version=shard.policy_version,
        judge_id=_JUDGE_ID,
        source="function",
        chosen_truncated=False,
        rejected_truncated=False,
    )
