"""The labelling page as an actor of the run, on the driver's own node."""

from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from judge.config import people_of
from judge.human.actor import LabelServerActor
from judge.human.judge import queue_url
from orchestrator.cluster.calls import START_TIMEOUT_S, Calls, actor_of
from orchestrator.observer import Observer
from orchestrator.people import note_address
from orchestrator.rundir import RunDir


class LabelServer:
    """Serves as soon as it is made; the address is awaited, shown and noted in `start`."""

    def __init__(self, run: RunDir, observer: Observer) -> None:
        self._run, self._observer = run, observer
        self._actor: Any = None
        people = people_of(run.config.judge)
        if people is None or not people.page.serve:
            return
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._actor = (
            actor_of(LabelServerActor)
            .options(scheduling_strategy=here)
            .remote(
                queue_url=queue_url(people, run.root),
                settings=people.page,
                port_file=str(run.root / "labels/port"),
            )
        )

    def start(self) -> None:
        """Wait until the page is up and say where. Raises UsageError where it cannot listen as configured."""
        if self._actor is None:
            return
        calls = Calls(self._observer)
        address = calls.get(self._actor.start.remote(), what="the labelling page", timeout_s=START_TIMEOUT_S)
        note_address(self._run.root, address)
        self._observer.say(f"labelling page: {address}")
        if not calls.get(self._actor.has_administrator.remote(), what="the labelling page", timeout_s=60):
            self._observer.say("  nobody can sign in yet: `rondo label administrator CONFIG` makes the first link")
