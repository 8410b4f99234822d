"""The learner as Ray actors: one, or a group of ranks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray

from judge.types import PairShard
from learner.actor import LearnerActor
from learner.config import LearnerConfig
from learner.types import LearnerUpdate, StepMetrics
from orchestrator.cluster.calls import QUIET_THREADS, START_TIMEOUT_S, Calls, actor_of
from orchestrator.cluster.memory import peak_memory
from orchestrator.cluster.ranks import LearnerRanks
from orchestrator.config import RunConfig
from orchestrator.observer import Observer
from orchestrator.placement import learner_gpus
from orchestrator.rundir import RunDir
from orchestrator.stages import OnStep
from rollout.errors import InfraError
from rollout.types import Logps, PolicyRef, TokenSequence

_ATTEMPTS = 3
_ROOM_TIMEOUT_S = 120.0


class RayLearner:
    """The learner as Ray actors; the first one's training streams its steps back."""

    def __init__(self, run: RunDir, config: RunConfig, observer: Observer, *, actor: Any = LearnerActor) -> None:
        settings = config.learner
        gpus = learner_gpus(settings, has_gpus=bool(ray.cluster_resources().get("GPU")))
        self._observer, self._settings = observer, settings
        self._calls = Calls(observer)
        self._timeout_s = settings.train_timeout_s
        self._base: PolicyRef | None = None
        self._starting: Any = None
        self._frozen_date = run.file.started_on
        fixed = {
            "run_dir": str(run.root),
            "seed": config.seed,
            "policy_dtype": config.policy.dtype,
            "num_rounds": config.num_rounds,
        }
        resources = {"num_cpus": settings.cpus, "num_gpus": gpus, "runtime_env": QUIET_THREADS}

        def make(rank: int, strategy: Any) -> Any:
            placed = {"max_restarts": -1} if strategy is None else {"scheduling_strategy": strategy}
            placeable = actor_of(actor).options(**resources, **placed)
            return placeable.remote(settings=self._settings, rank=rank, **fixed)

        self._ranks = LearnerRanks(
            make,
            num_ranks=settings.num_ranks,
            num_shards=settings.num_shards,
            resources={"CPU": float(settings.cpus), **({"GPU": float(gpus)} if gpus else {})},
            timeout_s=_ROOM_TIMEOUT_S,
        )

    def start(self, base: PolicyRef, policy: PolicyRef) -> None:
        """Begin to load this policy, with its state, without waiting for it."""
        self._base = base
        self._starting = self._ranks.start(base, policy)

    def configure(self, settings: LearnerConfig) -> None:
        """Learn what comes next by these settings."""
        if settings == self._settings:
            return  # the call would wait for the learner to be up, and generation need not
        self._settings = settings
        ref = self._ranks.configure(settings)
        self._calls.get(ref, what="configuring the learner", timeout_s=START_TIMEOUT_S)

    def make_base(self, config: RunConfig, *, source: Path | None, path: str, on_step: OnStep) -> PolicyRef:
        """Make the base policy of `policy.scratch` and `policy.sft`, durably."""
        policy = config.policy
        stream = self._ranks.actors[0].make_base.remote(
            path=path,
            seed=config.seed,
            source=source,
            scratch=policy.scratch,
            sft=policy.sft,
            dtype=policy.dtype,
            chat_template=policy.chat_template,
            chat_template_kwargs=dict(policy.chat_template_kwargs),
            system_prompt=policy.system_prompt,
            frozen_date=self._frozen_date,
        )
        base: PolicyRef = self._last(stream, on_step, what="making the base policy")
        return base

    def train(
        self, *, round_id: int, shards: Sequence[PairShard], policy_in: PolicyRef, on_step: OnStep
    ) -> LearnerUpdate:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                self._ready()
                stream = self._ranks.train(round_id=round_id, shards=list(shards), policy_in=policy_in)
                update: LearnerUpdate = self._last(stream, on_step, what=f"learning of round {round_id}")
                return update
            except InfraError as error:
                named = self._ranks.blame(error)
                self._ranks.replace()
                if attempt == _ATTEMPTS:
                    raise named from error
                self._observer.warn(f"{named}; round {round_id} is learnt again from its start")
                assert self._base is not None
                # A process that has come back knows only the settings that it was made with.
                self._ranks.configure(self._settings)
                self.start(self._base, policy_in)
        raise AssertionError

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        self._ready()
        ref = self._ranks.score(sequences, policy=policy)
        what, watch = "scoring on the learner", self._ranks.check
        try:
            logps: list[Logps] = self._calls.get(ref, what=what, timeout_s=self._timeout_s, watch=watch)
        except InfraError as error:
            raise self._ranks.blame(error) from error
        return logps

    def peak_memory(self) -> dict[str, dict[str, int]]:
        """The most that each rank's process has taken, in bytes."""
        ranks = self._ranks.actors
        names = ["learner"] if len(ranks) == 1 else [f"learner rank {rank}" for rank in range(len(ranks))]
        return peak_memory(self._calls, dict(zip(names, ranks, strict=True)))

    def _ready(self) -> None:
        if self._starting is not None:
            with self._observer.stage(None, "start learner"):
                what, watch = "start of the learner", self._ranks.check
                self._calls.get(self._starting, what=what, timeout_s=START_TIMEOUT_S, watch=watch)
            self._starting = None

    def _last(self, stream: Any, on_step: OnStep, *, what: str) -> Any:
        for value in self._calls.stream(stream, what=what, timeout_s=self._timeout_s, watch=self._ranks.check):
            if not isinstance(value, StepMetrics):
                return value
            on_step(value)
        raise InfraError(f"{what} ended without a result; the learner's log is in Ray's log folder")
