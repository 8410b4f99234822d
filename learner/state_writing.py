"""Writing the learner's state: every rank its own part, in the background, and committed once all are durable."""

import os
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import torch
from safetensors.torch import save_file
from torch.optim import Optimizer

from learner.adaptive import ObjectiveState
from learner.optimizers import moments_of
from learner.ranks import Ranks, Rows
from learner.slices import Held, slice_file
from learner.state import MASTERS, MOMENTS, RANDOM, REFERENCE, AdapterShape, StateManifest, Tensors
from rollout.errors import InfraError
from rollout.shards import hash_file, publish, temporary_beside, write_json


def save_state(
    folder: Path,
    *,
    version: int,
    num_steps: int,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: Optimizer,
    random_states: Tensors,
    objective: ObjectiveState,
    reference: Tensors | None = None,
    adapter: AdapterShape | None = None,
) -> None:
    """Write a state atomically; equal states are equal bytes."""
    contents = state_contents(parameters, optimizer, random_states=random_states, reference=reference)
    with StateWriting(folder, contents) as writing:
        writing.commit(version=version, num_steps=num_steps, objective=objective, adapter=adapter)


def state_contents(
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: Optimizer,
    *,
    random_states: Tensors,
    reference: Tensors | None = None,
) -> dict[str, Tensors]:
    """The files of a state and their tensors: this rank's rows of them where ranks are many."""
    moments = {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in moments_of(optimizer, parameter).items()
    }
    masters = {name: parameter.detach() for name, parameter in parameters.items()}
    contents: dict[str, Tensors] = {MASTERS: masters, MOMENTS: moments, RANDOM: random_states}
    return contents if reference is None else {**contents, REFERENCE: reference}


class StateWriting:
    """A state on its way to disk, in a thread of its own: its tensors must stay as they are until `commit`.

    rows: which rows of its parameters each rank has; every rank writes its own, and the first one the manifest.
    """

    def __init__(
        self,
        folder: Path,
        contents: Mapping[str, Tensors],
        *,
        rows: Mapping[str, Rows] | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._folder, self._ranks = folder, ranks or Ranks()
        self._rows = rows or {}
        self._temporary = self._ranks.from_first(self._make_temporary)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="state")
        self._written = self._thread.submit(self._write, contents)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        # Whatever happened meanwhile, nothing of this state is written any more when another one begins.
        self._thread.shutdown(wait=True)

    def commit(
        self, *, version: int, num_steps: int, objective: ObjectiveState, adapter: AdapterShape | None = None
    ) -> None:
        """Wait until every rank's files are on disk and hashed, and make them the state.

        Raises InfraError, naming the rank, where one could not write.
        """
        hashes, slices = self._all_written()
        manifest = StateManifest(
            version=version,
            num_steps=num_steps,
            sha256=hashes,
            objective=objective,
            num_ranks=self._ranks.num_ranks,
            slices=slices,
            adapter=adapter,
        )
        self._ranks.from_first(lambda: self._publish(manifest))

    def _make_temporary(self) -> Path:
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_beside(self._folder)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        return temporary

    def _write(self, contents: Mapping[str, Tensors]) -> dict[str, str]:
        ranks, hashes = self._ranks, {}
        for kind, tensors in contents.items():
            if kind != RANDOM and not ranks.is_writer:
                continue
            index, num = (ranks.rank, ranks.num_ranks) if kind == RANDOM else (ranks.shard, ranks.num_shards)
            path = self._temporary / slice_file(kind, index, num)
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
            sync_file(path)
            hashes[path.name] = hash_file(path)
        return hashes

    def _all_written(self) -> tuple[dict[str, str], tuple[Held, ...]]:
        error = self._written.exception()
        if error is not None and self._ranks.num_ranks == 1:
            raise error
        held = {name: (rows.start, rows.stop) for name, rows in self._rows.items()}
        found = self._ranks.gather((None if error else self._written.result(), held, repr(error)))
        hashes: dict[str, str] = {}
        for rank, (written, _, reason) in enumerate(found):
            if written is None:
                raise InfraError(f"rank {rank} could not write its part of {self._folder}: {reason}") from error
            hashes |= written
        num_shards = self._ranks.num_shards
        return hashes, tuple(held for _, held, _ in found[:num_shards]) if num_shards > 1 else ()

    def _publish(self, manifest: StateManifest) -> None:
        write_json(self._temporary / "state.json", manifest, StateManifest)
        sync_file(self._temporary / "state.json")
        publish(self._temporary, self._folder)


def sync_files(folder: Path) -> None:
    """Flush every file of a folder to disk."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            sync_file(path)


def sync_file(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
