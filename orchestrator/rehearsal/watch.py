"""Where a rehearsal stands, and which part it was that failed."""

from types import TracebackType

from rich.console import Console

from orchestrator.cluster.session import cluster_resources
from orchestrator.config import RunConfig
from orchestrator.observer import Observer
from orchestrator.placement import placement
from orchestrator.probe import ProbeError
from orchestrator.telemetry.sink import Event

_PARTS = {
    "start": "placement",
    "place": "placement",
    "scratch": "base policy",
    "start judges": "judge start",
    "start engines": "engine start",
    "start learner": "learner start",
    "generate": "generation",
    "judge": "judge",
    "learn": "learning",
    "sync": "weight sync",
    "evaluate": "evaluation",
}


class Watch:
    """Hears which stages begin and end, and stops a run that asks for more than the cluster has."""

    def __init__(self, config: RunConfig, observer: Observer, console: Console) -> None:
        self._config, self._observer, self._console = config, observer, console
        self._open: list[str] = []
        self.asked = self.there = (0.0, 0.0)  # CPUs and GPUs

    def take(self, event: Event) -> None:
        if event["kind"] == "stage_started":
            self._open.append(event["stage"])
            if event["stage"] in _PARTS:
                self._console.print(f"{event['stage']} ...", style="dim", highlight=False)
        elif event["kind"] == "stage":
            self._open = self._open[: self._open.index(event["stage"])]
            if event["stage"] == "place":
                self._compare()

    def close(self) -> None:
        """Nothing is kept open."""

    @property
    def fits(self) -> bool:
        return all(asked <= there for asked, there in zip(self.asked, self.there, strict=True))

    def part(self, error: BaseException) -> str:
        """The part that this error came from."""
        if not self.fits:
            return "placement"
        if isinstance(error, ProbeError):
            return "engine against learner"
        stage = self._open[-1] if self._open else "start"
        if stage in ("generate", "run") and _last_cluster_module(error.__traceback__) == "orchestrator.cluster.judge":
            return "judge"
        return _PARTS.get(stage, "engine against learner")

    def _compare(self) -> None:
        there = cluster_resources()
        shares = placement(self._config, has_gpus=bool(there["GPU"]))
        self.there = (there["CPU"], there["GPU"])
        self.asked = (sum(one.num * one.cpus for one in shares), sum(one.num * one.gpus for one in shares))
        if not self.fits:
            self._observer.stop(f"the run asks for {resources(self.asked)}; the cluster has {resources(self.there)}")


def resources(amount: tuple[float, float]) -> str:
    """CPUs and GPUs in words."""
    return f"{amount[0]:g} CPUs and {amount[1]:g} GPUs"


def _last_cluster_module(traceback: TracebackType | None) -> str:
    """The module of the innermost frame that speaks to actors of one kind; the judge pulls groups out of rollout."""
    found = ""
    while traceback is not None:
        name = str(traceback.tb_frame.f_globals.get("__name__"))
        if name in ("orchestrator.cluster.judge", "orchestrator.cluster.rollout", "orchestrator.cluster.learner"):
            found = name
        traceback = traceback.tb_next
    return found
