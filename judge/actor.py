"""The judge as a Ray actor: a shell around JudgeWorker."""

from pathlib import Path

import ray

from judge.config import JudgeConfig
from judge.types import Answer, JudgeReport, PairShard, Verdict
from judge.worker import JudgeWorker
from rollout.types import GroupShard


@ray.remote
class JudgeActor:
    """Judges group shards; several at a time, as far as the judge itself is async."""

    def __init__(
        self, *, settings: JudgeConfig, run_dir: str, run_id: str, name: str, actor: int, num_actors: int
    ) -> None:
        self._settings = settings
        self._name = f"{name}-{actor}"
        self._worker = JudgeWorker(
            settings=settings, run_dir=Path(run_dir), run_id=run_id, name=name, actor=actor, num_actors=num_actors
        )

    def __repr__(self) -> str:
        return f"{self._name} {self._worker.judge_id.rpartition('@')[0] or self._worker.judge_id}"

    async def start(self) -> str:
        """See JudgeWorker.start; an answer also says that the actor is up."""
        return await self._worker.start()

    async def configure(self, settings: JudgeConfig) -> None:
        """See JudgeWorker.configure."""
        await self._worker.configure(settings)
        self._settings = settings

    async def report(self) -> JudgeReport:
        """See JudgeWorker.report."""
        return self._worker.report()

    async def build(self, shard: GroupShard, *, verdict_dir: str, pair_dir: str) -> PairShard:
        """See JudgeWorker.build."""
        return await self._worker.build(shard, verdict_dir=verdict_dir, pair_dir=pair_dir)

    async def compare(self, candidate: GroupShard, baseline: GroupShard, *, out_dir: str) -> list[Verdict]:
        """See JudgeWorker.compare."""
        return await self._worker.compare(candidate, baseline, out_dir=out_dir)

    async def answer(self, shard: GroupShard, *, out_dir: str) -> list[Answer]:
        """See JudgeWorker.answer."""
        return await self._worker.answer(shard, out_dir=out_dir)
