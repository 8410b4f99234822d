"""The learner worker as a Ray actor; training streams its steps back as they are made."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from judge.types import PairShard
from learner.config import LearnerConfig
from learner.types import LearnerUpdate, StepMetrics
from rollout.errors import InfraError
from rollout.lean import import_transformers_lean
from rollout.types import Logps, PolicyRef, TokenSequence

if TYPE_CHECKING:  # whoever only calls the actor loads neither torch nor transformers
    from learner.ranks import Ranks
    from learner.worker import LearnerWorker


@ray.remote
class LearnerActor:
    """One learner, or one rank of it. worker_settings: those of LearnerWorker that are not base, settings, run_dir."""

    def __init__(self, *, settings: LearnerConfig, run_dir: str, rank: int = 0, **worker_settings: Any) -> None:
        self._settings, self._run_dir, self._worker_settings = settings, Path(run_dir), worker_settings
        self._rank = rank
        self._ranks: Ranks | None = None
        self._rendezvous: object = None
        self._worker: LearnerWorker | None = None
        # Imports take longer than most of what else has to happen before start(), so they begin at once.
        self._warming = threading.Thread(target=self._warm, daemon=True)
        self._warming.start()

    def __repr__(self) -> str:
        name = "learner" if self._settings.num_ranks == 1 else f"learner rank {self._rank}"
        return name + ("" if self._worker is None else f" step {self._worker.num_steps}")

    def configure(self, settings: LearnerConfig) -> None:
        """Learn what comes next by these settings."""
        if settings == self._settings:
            return
        self._settings = settings
        if self._worker is not None:
            self._worker.configure(settings)

    @ray.method(num_returns="streaming")  # type: ignore[untyped-decorator]
    def make_base(self, *, path: str, seed: int, **recipe: Any) -> Iterator[StepMetrics | PolicyRef]:
        """See learner.base_policy.make_base; the policy comes last. recipe: the fields of BaseRecipe."""
        self._warming.join()
        from learner.base_policy import BaseRecipe, make_base

        yield (
            yield from make_base(
                BaseRecipe(**recipe), run_dir=self._run_dir, path=path, learner=self._settings, seed=seed
            )
        )

    def open_rendezvous(self) -> tuple[str, int]:
        """Where the other ranks find this one: its host, and a port that was free."""
        self._warming.join()
        from learner.rank_group import open_rendezvous

        settings = self._settings
        self._rendezvous, host, port = open_rendezvous(
            ray.util.get_node_ip_address(), num_ranks=settings.num_ranks, timeout_s=settings.rank_timeout_s
        )
        return host, port

    def start(self, base: PolicyRef, policy: PolicyRef, rendezvous: tuple[str, int] | None = None) -> None:
        """Load the policy that learning goes on from, with its state; base is the run's first one.

        rendezvous: where many ranks meet.
        """
        self._warming.join()  # two threads that import the same large package at once see it half made
        from learner.worker import LearnerWorker

        if rendezvous is not None and self._ranks is None:
            self._ranks = self._join(rendezvous)
        self._worker = LearnerWorker(
            base=base, settings=self._settings, run_dir=self._run_dir, ranks=self._ranks, **self._worker_settings
        )
        with self._worker.ranks.named():
            self._worker.prepare(policy)

    @ray.method(num_returns="streaming")  # type: ignore[untyped-decorator]
    def train(
        self, *, round_id: int, shards: Sequence[PairShard], policy_in: PolicyRef
    ) -> Iterator[StepMetrics | LearnerUpdate]:
        """See LearnerWorker.train; the update comes last."""
        with self._started().ranks.named():
            yield (yield from self._started().train(round_id=round_id, shards=shards, policy_in=policy_in))

    def train_along(self, *, round_id: int, shards: Sequence[PairShard], policy_in: PolicyRef) -> None:
        """Train as one rank of many; the first one tells."""
        with self._started().ranks.named():
            for _ in self._started().train(round_id=round_id, shards=shards, policy_in=policy_in):
                pass

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        """See LearnerWorker.score."""
        with self._started().ranks.named():
            return self._started().score(sequences, policy=policy)

    def _join(self, rendezvous: tuple[str, int]) -> "Ranks":
        from learner.model import choose_device
        from learner.rank_group import join_ranks

        settings = self._settings
        return join_ranks(
            rendezvous,
            rank=self._rank,
            num_ranks=settings.num_ranks,
            num_shards=settings.num_shards,
            device=choose_device(settings),
            timeout_s=settings.rank_timeout_s,
            num_sequence=settings.sequence_parallel,
            gather_once=settings.gather_once,
        )

    def release(self) -> None:
        """See LearnerWorker.release."""
        self._started().release()

    def acquire(self) -> None:
        """See LearnerWorker.acquire."""
        self._started().acquire()

    def _warm(self) -> None:
        import_transformers_lean()
        from transformers.utils import logging

        import learner.worker  # noqa: F401

        logging.disable_progress_bar()

    def _started(self) -> "LearnerWorker":
        if self._worker is None:
            raise InfraError(f"{self!r} holds no policy yet: its process is new, and start() comes first")
        return self._worker
