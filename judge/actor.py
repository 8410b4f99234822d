"""The judge as a Ray actor: a shell around JudgeWorker."""

from pathlib import Path

import ray

from judge.config import JudgeConfig
from judge.types import PairShard, Verdict
from judge.worker import JudgeWorker
from rollout.types import GroupShard


@ray.remote
class JudgeActor:
    """Judges group shards; several at a time, as far as the judge itself is async."""

    def __init__(self, *, settings: JudgeConfig, run_dir: str, run_id: str) -> None:
        self._settings = settings
        self._worker = JudgeWorker(settings=settings, run_dir=Path(run_dir), run_id=run_id)

    def __repr__(self) -> str:
        return f"judge {self._settings.kind}:{self._settings.target.partition(':')[2]}"

    async def configure(self, settings: JudgeConfig) -> None:
        """Judge what comes next by these settings."""
        self._worker.configure(settings)
        self._settings = settings

    async def judge_id(self) -> str:
        """Names the judge, its source text and its settings; an answer also says that the actor is up."""
        return self._worker.judge_id

    async def build(self, shard: GroupShard, *, verdict_dir: str, pair_dir: str) -> PairShard:
        """See JudgeWorker.build."""
        return await self._worker.build(shard, verdict_dir=verdict_dir, pair_dir=pair_dir)

    async def compare(self, candidate: GroupShard, baseline: GroupShard, *, out_dir: str) -> list[Verdict]:
        """See JudgeWorker.compare."""
        return await self._worker.compare(candidate, baseline, out_dir=out_dir)
