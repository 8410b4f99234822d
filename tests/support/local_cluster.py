"""The three stages in this process: the same workers that the Ray actors hold, without Ray.

For tests that are about the loop and its files. The engine is the bit-reproducible reference engine.
"""

import asyncio
import threading
from collections.abc import Iterable, Iterator, Sequence

import pytest
from transformers import AutoModelForCausalLM

from judge.config import JudgeConfig, as_judge
from judge.types import Answer, PairShard, Purpose, Verdict
from judge.worker import JudgeWorker
from learner.types import LearnerUpdate
from learner.worker import LearnerWorker
from orchestrator.config import RunConfig
from orchestrator.rundir import RunDir
from orchestrator.stages import Cluster, OnStep
from rollout.build import build_worker
from rollout.types import GroupShard, Logps, PolicyRef, PromptChunk, Sampling, TokenSequence


class LocalRollout:
    def __init__(self, run: RunDir, base: PolicyRef) -> None:
        config = run.config
        self.worker = build_worker(
            run.root / base.path,
            index=0,
            settings=config.engines,
            run_dir=run.root,
            dtype=config.policy.dtype,
            seed=config.seed,
            frozen_date=run.file.started_on,
        )
        self._policy: PolicyRef | None = None

    def load(self, policy: PolicyRef) -> None:
        if self._policy is None:
            asyncio.run(self.worker.start(policy))
        elif self._policy != policy:
            asyncio.run(self.worker.load(policy))
        self._policy = policy

    def generate(self, chunks: Sequence[PromptChunk], *, policy: PolicyRef, sampling: Sampling) -> Iterator[GroupShard]:
        self.load(policy)
        for chunk in chunks:
            yield asyncio.run(self.worker.generate(chunk, policy, sampling))

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        self.load(policy)
        return asyncio.run(self.worker.score(sequences))


class LocalJudge:
    def __init__(self, run: RunDir, settings: JudgeConfig, *, name: str = "judge") -> None:
        self._run = run
        self._loop = asyncio.new_event_loop()  # one for good, as a judge's connections belong to it
        self.worker = JudgeWorker(settings=settings, run_dir=run.root, run_id=run.run_id, name=name)

    def configure(self, config: RunConfig) -> None:
        self._loop.run_until_complete(self.worker.configure(config.judge))

    def build(self, groups: Iterable[GroupShard], *, round_id: int, num_chunks: int) -> tuple[PairShard, ...]:
        folder = self._run.round_dir(round_id)
        folders = {"verdict_dir": f"{folder}/verdicts", "pair_dir": f"{folder}/pairs"}
        shards = [
            self._loop.run_until_complete(self.worker.build(group, **folders, num_chunks=num_chunks))
            for group in groups
        ]
        return tuple(sorted(shards, key=lambda shard: shard.chunk_id))

    def compare(
        self,
        candidates: Sequence[GroupShard],
        baselines: Sequence[GroupShard],
        *,
        out_dir: str,
        purpose: Purpose = "held_out",
    ) -> list[Verdict]:
        options = {"out_dir": out_dir, "purpose": purpose, "num_chunks": len(candidates)}
        found = []
        for ours, theirs in zip(candidates, baselines, strict=True):
            found += self._loop.run_until_complete(self.worker.compare(ours, theirs, **options))
        return found

    def answer(self, shard: GroupShard, *, out_dir: str) -> list[Answer]:
        return self._loop.run_until_complete(self.worker.answer(shard, out_dir=out_dir))


class LocalLearner:
    def __init__(self, run: RunDir, base: PolicyRef) -> None:
        config = run.config
        self.worker = LearnerWorker(
            settings=config.learner,
            run_dir=run.root,
            base=base,
            seed=config.seed,
            policy_dtype=config.policy.dtype,
            num_rounds=config.num_rounds,
        )

    def train(
        self, *, round_id: int, shards: Sequence[PairShard], policy_in: PolicyRef, on_step: OnStep
    ) -> LearnerUpdate:
        steps = self.worker.train(round_id=round_id, shards=shards, policy_in=policy_in)
        while True:
            try:
                on_step(next(steps))
            except StopIteration as done:
                return done.value

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        return self.worker.score(sequences, policy=policy)


def load_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """For rounds that overlap: transformers' loading is not made for threads, and here the stages are no processes."""
    load, lock = AutoModelForCausalLM.from_pretrained, threading.RLock()

    def alone(*args, **kwargs):
        with lock:
            return load(*args, **kwargs)

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", staticmethod(alone))


def local_cluster(run: RunDir, base: PolicyRef) -> Cluster:
    judge = LocalJudge(run, run.config.judge)
    gold = run.config.evaluation.gold
    return Cluster(
        rollout=LocalRollout(run, base),
        judge=judge,
        learner=LocalLearner(run, base),
        gold=None if gold is None else LocalJudge(run, as_judge(gold), name="gold"),
        configure=judge.configure,
    )
