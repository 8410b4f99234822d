"""The learner's actors: one, or a group of ranks that is started, called and replaced as one."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.cluster.calls import POLL_S
from rollout.errors import InfraError, RondoError, UsageError
from rollout.types import PolicyRef

# Ray tells of a dead process within about this time of the errors that its death causes elsewhere.
_BLAME_S = 10.0
_NAMED = "learner rank"
Make = Callable[[int, Any], Any]


class LearnerRanks:
    """make(rank, strategy): the actor of one rank, which Ray places by the strategy; resources: what each takes.

    Ranks that hold a model together while others hold copies (HSDP) are placed on one node.
    One rank comes back by itself when its process dies. Many are worth nothing without each other: when one dies,
    `replace` ends them all and makes new ones, in the same places.
    """

    def __init__(
        self, make: Make, *, num_ranks: int, num_shards: int, resources: dict[str, float], timeout_s: float
    ) -> None:
        self._make, self.num_ranks = make, num_ranks
        self._ranks_per_bundle = num_shards if num_shards < num_ranks else 1
        self._beside: list[Any] = []
        self._group: PlacementGroup | None = None
        if num_ranks > 1:
            bundle = {name: amount * self._ranks_per_bundle for name, amount in resources.items()}
            self._group = _reserve(num_ranks // self._ranks_per_bundle, bundle, timeout_s=timeout_s)
        self.actors = self._actors()

    def replace(self) -> None:
        """New processes where ranks are many; a single one has come back or will."""
        if self.num_ranks == 1:
            return
        for actor in self.actors:
            ray.kill(actor)
        self.actors = self._actors()

    def start(self, base: PolicyRef, policy: PolicyRef) -> Any:
        """Begin to load; what the first rank answers."""
        if self.num_ranks == 1:
            return self.actors[0].start.remote(base=base, policy=policy)
        meet = self.actors[0].open_rendezvous.remote()
        return self._along([actor.start.remote(base=base, policy=policy, rendezvous=meet) for actor in self.actors])

    def configure(self, settings: Any) -> Any:
        return self._along([actor.configure.remote(settings) for actor in self.actors])

    def train(self, **arguments: Any) -> Any:
        """The first rank's stream; the others train along."""
        first, *others = self.actors
        stream = first.train.remote(**arguments)
        self._along([stream, *[actor.train_along.remote(**arguments) for actor in others]])
        return stream

    def score(self, sequences: Sequence[Any], *, policy: PolicyRef) -> Any:
        return self._along([actor.score.remote(list(sequences), policy=policy) for actor in self.actors])

    def check(self) -> None:
        """Raise InfraError, naming it, for a rank beside the first one whose call failed."""
        for rank, ref in enumerate(self._beside, start=1):
            if ray.wait([ref], timeout=0)[0]:
                self._raise(rank, ref)

    def blame(self, error: InfraError) -> InfraError:
        """The same error with the name of the rank whose process died, where one did."""
        if self.num_ranks > 1 and isinstance(error.__cause__, RayActorError):
            known = _NAMED in str(error)
            return error if known else InfraError(f"{_NAMED} 0 of {self.num_ranks}: {error}")
        deadline = time.monotonic() + (_BLAME_S if self._beside else 0)
        while True:
            for rank, ref in enumerate(self._beside, start=1):
                if ray.wait([ref], timeout=0)[0] and _died(ref):
                    return InfraError(f"{_NAMED} {rank} of {self.num_ranks}: its process died; {error}")
            if time.monotonic() > deadline or not self._beside:
                return error
            time.sleep(POLL_S)

    def _along(self, refs: Sequence[Any]) -> Any:
        self._beside = list(refs[1:])
        return refs[0]

    def _raise(self, rank: int, ref: Any) -> None:
        name = f"{_NAMED} {rank} of {self.num_ranks}"
        try:
            ray.get(ref)
        except RayActorError as error:
            raise InfraError(f"{name}: its process died ({str(error).splitlines()[0]})") from error
        except RayTaskError as error:
            if isinstance(error.cause, RondoError) and not isinstance(error.cause, InfraError):
                raise error.cause from None  # as the first rank will, or would if it did not wait for this one
            reason = str(error.cause).splitlines() or [type(error.cause).__name__]
            raise InfraError(f"{name} failed: {reason[0]}") from error

    def _actors(self) -> list[Any]:
        if self._group is None:
            return [self._make(0, None)]
        return [
            self._make(
                rank,
                PlacementGroupSchedulingStrategy(
                    placement_group=self._group, placement_group_bundle_index=rank // self._ranks_per_bundle
                ),
            )
            for rank in range(self.num_ranks)
        ]


def _died(ref: Any) -> bool:
    try:
        ray.get(ref)
    except RayActorError:
        return True
    except Exception:
        return False  # the call failed, but its process lives
    return False


def _reserve(num_bundles: int, bundle: dict[str, float], *, timeout_s: float) -> PlacementGroup:
    """Room for all ranks at once, or none: half a group would wait for ever for its other half."""
    group = placement_group([bundle] * num_bundles, strategy="PACK")
    if not group.wait(timeout_seconds=timeout_s):
        remove_placement_group(group)
        raise UsageError(
            f"learner.num_ranks: {num_bundles} times {bundle} found no room within {timeout_s:.0f} s; the cluster has "
            f"{ {name: amount for name, amount in ray.cluster_resources().items() if name in ('CPU', 'GPU')} }; "
            "lower learner.num_ranks or learner.cpus, or raise cluster.num_cpus"
        )
    return group
