"""Where an engine gets a policy's whole weights from: one interface for every road that they may come by."""

import itertools
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import xxhash
from safetensors import safe_open

from rollout.errors import InfraError
from rollout.types import Road
from rollout.weights import file_shapes, tied_away, weight_files

if TYPE_CHECKING:  # the driver imports what lies in this package's shards, and loads no torch
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Safetensors files that this node's processes can open; a value that may travel between processes.

    folder: the policy's own, where its configuration lies. hashes: XXH3 of each tensor's bytes by name, in hex, which
    are checked as they arrive; empty where the files were checked before, as those of a folder are.
    """

    road: Road
    folder: Path
    files: tuple[Path, ...]
    hashes: Mapping[str, str] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.files)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name and shape of every tensor; see `weight_shapes`."""
        return tied_away(file_shapes(self.files), self.folder)

    def tensors(self) -> "Iterator[tuple[str, Tensor]]":
        """Names and tensors, mapped rather than read. Raises InfraError at the first that is not what was sent.

        A tensor is checked while the one before it is put in place, and is still in the cache when its turn comes.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="weights") as thread:
            ahead: Future[None] | None = None
            before: tuple[str, Tensor] | None = None
            for name, tensor in itertools.chain.from_iterable(map(_tensors, self.files)):
                checked = thread.submit(self._check, name, tensor) if self.hashes else None
                if before is not None:
                    _raised(ahead)
                    yield before
                before, ahead = (name, tensor), checked
            if before is not None:
                _raised(ahead)
                yield before

    def _check(self, name: str, tensor: "Tensor") -> None:
        found, expected = hash_tensor(tensor), self.hashes.get(name, "none")
        if found != expected:
            raise InfraError(
                f"{name} of {self.folder.name} arrived altered by {self.road}: its bytes hash to {found}, expected "
                f"{expected}; load the policy from its folder"
            )


def folder_source(folder: Path) -> WeightSource:
    """The durable folder: the road that always works. Its files are checked by the policy's sha256, not here."""
    return WeightSource(road="folder", folder=folder, files=tuple(weight_files(folder)))


def tensor_hashes(file: Path) -> dict[str, str]:
    """XXH3 of each tensor of a safetensors file, by name."""
    return {name: hash_tensor(tensor) for name, tensor in _tensors(file)}


def hash_tensor(tensor: "Tensor") -> str:
    """XXH3 of a contiguous tensor's bytes, in hex: at the speed of memory, against mishaps and not against malice."""
    import torch

    return xxhash.xxh3_64_hexdigest(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _tensors(file: Path) -> "Iterator[tuple[str, Tensor]]":
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118
            yield name, opened.get_tensor(name)


def _raised(check: "Future[None] | None") -> None:
    if check is not None:
        check.result()
