"""The most memory that processes of a run have taken."""

import resource
import sys
from collections.abc import Mapping
from typing import Any

from orchestrator.cluster.calls import Calls

_TIMEOUT_S = 60.0


def peak_memory(calls: Calls, actors: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Bytes of main memory and, where a process computes on one, of its GPU, by name. Raises InfraError."""
    refs = {name: actor.__ray_call__.remote(_own_peak) for name, actor in actors.items()}
    return {name: calls.get(ref, what=f"memory of {name}", timeout_s=_TIMEOUT_S) for name, ref in refs.items()}


def _own_peak(actor: object) -> dict[str, int]:
    found = {"memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["gpu_memory_bytes"] = torch.cuda.max_memory_reserved()
    return found
