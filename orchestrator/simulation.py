"""A run whose stages are simulated: loop, journal, dispatch over Ray and shards are the real ones."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from orchestrator.base import BASE_PATH, record_base
from orchestrator.cluster.judge import RayJudge
from orchestrator.cluster.learner import RayLearner
from orchestrator.cluster.rollout import RayRollout
from orchestrator.cluster.session import start_ray, stop_ray
from orchestrator.cluster.simulated import SimulatedEngine, SimulatedJudge, SimulatedLearner, simulated
from orchestrator.config import parse_config
from orchestrator.journal import Journal
from orchestrator.loop import run_rounds
from orchestrator.observer import Observer
from orchestrator.rundir import open_run
from orchestrator.stages import Cluster
from orchestrator.telemetry.sink import Event
from rollout.prompts import prompt_id
from rollout.types import Message, PolicyRef, Prompt


@dataclass(frozen=True, kw_only=True)
class Services:
    """Seconds that an engine and a judge take for a chunk, and the learner for a round."""

    generate_s: float = 0.0
    judge_s: float = 0.0
    train_s: float = 0.0


class SimulatedRun:
    """Rounds of a run, and how long each took."""

    def __init__(self, journal: Journal, cluster: Cluster, observer: Observer) -> None:
        self._journal, self._cluster, self._observer = journal, cluster, observer
        self._done_at: list[float] = []
        observer.attach(self)

    def run(self, prompts: tuple[Prompt, ...]) -> None:
        """All rounds, to the end."""
        run_rounds(self._journal, self._cluster, prompts, (), self._observer)

    @property
    def round_seconds(self) -> list[float]:
        """From the end of each round to that of the next."""
        return [after - before for before, after in itertools.pairwise(self._done_at)]

    def take(self, event: Event) -> None:
        """See Sink."""
        if event["kind"] == "round_done":
            self._done_at.append(event["time"])

    def close(self) -> None:
        """See Sink."""


@contextmanager
def simulated_run(root: Path, services: Services, **settings: Any) -> Iterator[SimulatedRun]:
    """A run in `root` on a Ray of its own, with its actors up; settings: sections of the configuration."""
    tree = {
        "policy": {"path": "simulated"},
        "judge": {"target": "simulated:score"},
        "probe": {"num_completions": 0},
        "cluster": {"num_cpus": 8, "metrics": False},
        **settings,
    }
    run = open_run(root, parse_config(tree, origin="simulation"))
    observer = Observer(root, console=Console(quiet=True))
    start_ray(run.config.cluster)
    try:
        engine = simulated(SimulatedEngine, service_s=services.generate_s)
        judging = simulated(SimulatedJudge, service_s=services.judge_s)
        training = simulated(SimulatedLearner, service_s=services.train_s)
        rollout = RayRollout(run, run.config, observer, actor=engine)
        judge = RayJudge(root, run.run_id, run.config.judge, observer, actor=judging)
        learner = RayLearner(run, run.config, observer, actor=training)
        base = record_base(root, PolicyRef(version=0, path=BASE_PATH, sha256="0" * 64))
        learner.start(base, base)
        judge.start()
        rollout.load(base)
        cluster = Cluster(rollout=rollout, judge=judge, learner=learner)
        yield SimulatedRun(Journal(run, base_policy=base), cluster, observer)
    finally:
        stop_ray()


def simulated_prompts(num: int) -> tuple[Prompt, ...]:
    """Prompts that differ in a number."""
    asked: list[tuple[Message, ...]] = [({"role": "user", "content": f"question {n}"},) for n in range(num)]
    return tuple(Prompt(prompt_id=prompt_id(one), messages=one, source="simulated") for one in asked)
