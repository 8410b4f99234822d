"""What Ray's control service knows about nodes that are about to go."""

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayError

_TIMEOUT_S = 5.0


class Nodes:
    """The cluster's nodes, as Ray's control service (GCS) knows them; Ray has no public call for drain notices."""

    def __init__(self) -> None:
        self._gcs = GcsClient(address=ray.get_runtime_context().gcs_address)

    def draining(self) -> frozenset[str]:
        """Ids of nodes that the autoscaler or a preemption notice is about to take away; none where it is unknown."""
        try:
            return frozenset(self._gcs.get_draining_nodes(timeout=_TIMEOUT_S))
        except RayError:  # the control service restarts; its next answer comes soon enough
            return frozenset()
