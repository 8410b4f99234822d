"""The learner's own state: fp32 masters, AdamW moments, position in the schedule, random states.

A state is an immutable folder, written whole and hash-checked on read. The state of policy version v lies at
learner/{v - 1:04d}; the base policy has none. Learning goes on from it, never from a published policy.
"""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from learner.adaptive import ObjectiveState
from rollout.errors import IntegrityError
from rollout.shards import SCHEMA_VERSION, hash_file, publish, read_json, temporary_beside, write_json

MASTERS, MOMENTS, RANDOM = "masters.safetensors", "moments.safetensors", "random.safetensors"
REFERENCE = "reference.safetensors"
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class StateManifest:
    """version: the policy that the state belongs to; num_steps: optimizer steps of the run so far; objective: what
    the objective remembers. A state has reference.safetensors only where the reference follows the policy."""

    version: int
    num_steps: int
    sha256: Mapping[str, str]
    objective: ObjectiveState = field(default_factory=ObjectiveState)
    schema_version: int = SCHEMA_VERSION


def state_folder(run_dir: Path, version: int) -> Path | None:
    """Where the state of a policy lies, or None for the base, which has none."""
    return run_dir / "learner" / f"{version - 1:04d}" if version > 0 else None


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
) -> None:
    """Write a state atomically; equal states are equal bytes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(folder)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    moments = {
        f"{name}/{key}": value
        for name, parameter in parameters.items()
        for key, value in optimizer.state.get(parameter, {}).items()
    }
    masters = {name: parameter.detach() for name, parameter in parameters.items()}
    contents: dict[str, Tensors] = {MASTERS: masters, MOMENTS: moments, RANDOM: random_states}
    if reference is not None:
        contents[REFERENCE] = reference
    for file, tensors in contents.items():
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, temporary / file)
    hashes = {file: hash_file(temporary / file) for file in contents}
    manifest = StateManifest(version=version, num_steps=num_steps, sha256=hashes, objective=objective)
    write_json(temporary / "state.json", manifest, StateManifest)
    sync_files(temporary)
    publish(temporary, folder)


def load_state(
    folder: Path, *, version: int, parameters: Mapping[str, torch.nn.Parameter], optimizer: Optimizer
) -> tuple[StateManifest, Tensors]:
    """Fill parameters and optimizer with a saved state; its manifest and random states.

    Raises IntegrityError, naming the file, where the state is missing, altered, or that of another model.
    """
    manifest = read_state_manifest(folder, version=version)
    masters, moments, random_states = (load_file(folder / file) for file in (MASTERS, MOMENTS, RANDOM))
    shapes = {name: tuple(tensor.shape) for name, tensor in masters.items()}
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    if shapes != expected:
        wrong = sorted(set(shapes.items()) ^ set(expected.items()))[0][0]
        raise IntegrityError(f"{folder / MASTERS} is the state of another model: they differ in parameter {wrong}")
    optimizer.state.clear()
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(masters[name])
    for place, tensor in moments.items():
        name, key = place.rsplit("/", maxsplit=1)
        optimizer.state[parameters[name]][key] = tensor.to(parameters[name].device)
    return manifest, random_states


def read_state_manifest(folder: Path, *, version: int) -> StateManifest:
    """The manifest of a state whose files have all been checked against it. Raises IntegrityError."""
    manifest = read_json(folder / "state.json", StateManifest)
    if manifest.version != version:
        raise IntegrityError(f"{folder} is the state of policy {manifest.version}, expected {version}")
    for file in sorted({MASTERS, MOMENTS, RANDOM, *manifest.sha256}):
        path = folder / file
        found = hash_file(path) if path.exists() else "nothing"
        if found != manifest.sha256.get(file):
            raise IntegrityError(
                f"{path} was truncated, altered or removed: sha256 {found[:12]}, expected "
                f"{manifest.sha256.get(file, 'nothing')[:12]}; restore it, or fork the run from an earlier round"
            )
    return manifest


def saved_reference(folder: Path, manifest: StateManifest) -> Tensors | None:
    """The weights of a reference that followed the policy, or None where the state has none."""
    return load_file(folder / REFERENCE) if REFERENCE in manifest.sha256 else None


def saved_master(folder: Path, name: str) -> Tensor:
    """One parameter of a saved state, float32, without reading the others."""
    with safe_open(folder / MASTERS, framework="pt") as file:
        tensor: Tensor = file.get_tensor(name)
    return tensor


def random_states() -> dict[str, Tensor]:
    """The random states of torch on this machine's devices, as uint8 tensors."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def set_random_states(states: Tensors) -> None:
    """Restore what `random_states` read; a device that this machine lacks is passed over."""
    torch.set_rng_state(states["cpu"])
    num_devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for i in range(num_devices):
        if f"cuda:{i}" in states:
            torch.cuda.set_rng_state(states[f"cuda:{i}"], i)


def sync_files(folder: Path) -> None:
    """Flush every file of a folder to disk."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
