"""The judge as a Ray actor: a shell around JudgeWorker."""

from pathlib import Path

import ray

from judge.attempt import attempt
from judge.config import JudgeConfig
from judge.types import Answer, JudgeReport, PairShard, Purpose, Verdict
from judge.worker import JudgeWorker
from rollout.types import GroupShard


@ray.remote
class JudgeActor:
    """Judges group shards; several at a time, as far as the judge itself is async."""

    def __init__(
        self,
        *,
        settings: JudgeConfig,
        run_dir: str,
        run_id: str,
        name: str,
        actor: int,
        num_actors: int,
        command: str = "",
    ) -> None:
        self._name = f"{name}-{actor}"
        self._made = attempt(
            lambda: JudgeWorker(
                settings=settings,
                run_dir=Path(run_dir),
                run_id=run_id,
                name=name,
                actor=actor,
                num_actors=num_actors,
                command=command,
            )
        )

    def __repr__(self) -> str:
        judge_id = "refused" if self._made.exception() else self._worker.judge_id
        return f"{self._name} {judge_id.rpartition('@')[0] or judge_id}"

    @property
    def _worker(self) -> JudgeWorker:
        return self._made.result()

    async def start(self) -> str:
        """See JudgeWorker.start; an answer also says that the actor is up."""
        return await self._worker.start()

    async def configure(self, settings: JudgeConfig) -> None:
        """See JudgeWorker.configure."""
        await self._worker.configure(settings)

    async def report(self) -> JudgeReport:
        """See JudgeWorker.report."""
        return self._worker.report()

    async def waiting_for(self) -> str:
        """See JudgeWorker.waiting_for."""
        return self._worker.waiting_for()

    async def build(self, shard: GroupShard, *, verdict_dir: str, pair_dir: str, num_chunks: int) -> PairShard:
        """See JudgeWorker.build."""
        return await self._worker.build(shard, verdict_dir=verdict_dir, pair_dir=pair_dir, num_chunks=num_chunks)

    async def compare(
        self, candidate: GroupShard, baseline: GroupShard, *, out_dir: str, purpose: Purpose, num_chunks: int
    ) -> list[Verdict]:
        """See JudgeWorker.compare."""
        return await self._worker.compare(candidate, baseline, out_dir=out_dir, purpose=purpose, num_chunks=num_chunks)

    async def answer(self, shard: GroupShard, *, out_dir: str) -> list[Answer]:
        """See JudgeWorker.answer."""
        return await self._worker.answer(shard, out_dir=out_dir)
