"""Accelerators that are known, and how many of them on how many nodes."""

import re
from dataclasses import dataclass

from rollout.errors import UsageError

_SPELLING = re.compile(r"(?:(?P<nodes>\d+)x)?(?:(?P<each>\d+)x)?(?P<name>[A-Za-z][\w-]*)")


@dataclass(frozen=True, kw_only=True)
class Accelerator:
    """One GPU: dense bf16 FLOP/s at their peak, bytes of its memory, and bytes/s to and from it."""

    name: str
    peak_flops: float
    memory_bytes: float
    bandwidth: float


# Dense bf16 throughput (vendors print twice as much, with sparsity), memory and bandwidth, from the data sheet named.
ACCELERATORS = {
    one.name: one
    for one in (
        # NVIDIA A100 80GB data sheet, SXM
        Accelerator(name="A100-80", peak_flops=312e12, memory_bytes=80e9, bandwidth=2.039e12),
        # NVIDIA L40S data sheet
        Accelerator(name="L40S", peak_flops=362e12, memory_bytes=48e9, bandwidth=0.864e12),
        # NVIDIA H100 data sheet, SXM
        Accelerator(name="H100", peak_flops=989e12, memory_bytes=80e9, bandwidth=3.35e12),
        # NVIDIA H200 data sheet, SXM
        Accelerator(name="H200", peak_flops=989e12, memory_bytes=141e9, bandwidth=4.8e12),
        # NVIDIA DGX B200 data sheet, an eighth of the system
        Accelerator(name="B200", peak_flops=2.25e15, memory_bytes=180e9, bandwidth=8.0e12),
        # AMD Instinct MI300X data sheet
        Accelerator(name="MI300X", peak_flops=1.307e15, memory_bytes=192e9, bandwidth=5.3e12),
    )
}


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """num_nodes machines with gpus_per_node of one accelerator each; no accelerator: machines without any."""

    num_nodes: int
    gpus_per_node: int
    accelerator: Accelerator | None

    @property
    def num_gpus(self) -> int:
        return self.num_nodes * self.gpus_per_node

    @property
    def name(self) -> str:
        return f"{self.num_nodes}x{self.gpus_per_node}x{self.accelerator.name}" if self.accelerator else "cpu"


def parse_hardware(text: str) -> Hardware:
    """2x8xH200 is two nodes of eight, 8xH200 one node, H200 one GPU; cpu has none. Raises UsageError."""
    if text.lower() == "cpu":
        return Hardware(num_nodes=1, gpus_per_node=0, accelerator=None)
    match = _SPELLING.fullmatch(text)
    known = {name.lower(): one for name, one in ACCELERATORS.items()}
    if match is None or match["name"].lower() not in known:
        raise UsageError(
            f"--hardware {text}: expected NODESxGPUSxNAME such as 2x8xH200, 8xH100 or cpu; known names are "
            f"{', '.join(ACCELERATORS)}"
        )
    nodes, each = (match["nodes"], match["each"]) if match["each"] else (None, match["nodes"])
    hardware = Hardware(
        num_nodes=int(nodes or 1), gpus_per_node=int(each or 1), accelerator=known[match["name"].lower()]
    )
    if not hardware.num_gpus:
        raise UsageError(f"--hardware {text}: expected at least one node and one GPU")
    return hardware
