"""The learner's own state: fp32 masters, AdamW moments, position in the schedule, random states.

A state is an immutable folder, written whole and hash-checked on read. The state of policy version v lies at
learner/{v - 1:04d}; the base policy has none. Learning goes on from it, never from a published policy.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from learner.adaptive import ObjectiveState
from learner.optimizers import fill_moments
from learner.ranks import Ranks, Rows, whole_rows
from learner.slices import Held, SlicedTensors, slice_file
from rollout.errors import IntegrityError
from rollout.shards import SCHEMA_VERSION, hash_file, hash_json, read_json

MASTERS, MOMENTS, RANDOM = "masters.safetensors", "moments.safetensors", "random.safetensors"
REFERENCE = "reference.safetensors"
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class AdapterShape:
    """What an adapter's matrices belong to. targets: last parts of the names of layers; quantize: of the base."""

    base_sha256: str
    rank: int
    alpha: int
    targets: tuple[str, ...]
    quantize: str | None = None


@dataclass(frozen=True, kw_only=True)
class StateManifest:
    """version: the policy that the state belongs to; num_steps: optimizer steps of the run so far; objective: what
    the objective remembers. A state has reference.safetensors only where the reference follows the policy.

    num_ranks: those that wrote it, with a random state each. slices: where several hold a model together, the rows
    [start, stop) of each parameter that stand in the masters, moments and reference of each. adapter: where only an
    adapter is trained, all tensors are its own, and this says of what; None: all weights.
    """

    version: int
    num_steps: int
    sha256: Mapping[str, str]
    objective: ObjectiveState = field(default_factory=ObjectiveState)
    num_ranks: int = 1
    slices: tuple[Held, ...] = ()
    adapter: AdapterShape | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def masters_sha256(self) -> str:
        """What tells these masters from others."""
        num = max(1, len(self.slices))
        found = [self.sha256[slice_file(MASTERS, i, num)] for i in range(num)]
        return found[0] if num == 1 else hash_json(found)


def state_folder(run_dir: Path, version: int) -> Path | None:
    """Where the state of a policy lies, or None for the base, which has none."""
    return run_dir / "learner" / f"{version - 1:04d}" if version > 0 else None


def load_state(
    folder: Path,
    *,
    version: int,
    parameters: Mapping[str, torch.nn.Parameter],
    optimizer: Optimizer,
    rows: Mapping[str, Rows] | None = None,
    ranks: Ranks | None = None,
    adapter: AdapterShape | None = None,
) -> tuple[StateManifest, Tensors]:
    """Fill parameters and optimizer with a saved state; its manifest and random states.

    rows: those of each parameter that this rank has and therefore reads, by default all; as many ranks as one likes
    may have written them. Raises IntegrityError, naming the file, where the state is missing, altered, or that of
    another model or adapter.
    """
    ranks = ranks or Ranks()
    manifest = read_state_manifest(folder, version=version, ranks=ranks)
    _refuse_other_adapter(folder, manifest.adapter, adapter)
    rows = rows or {name: whole_rows(parameter) for name, parameter in parameters.items()}
    with SlicedTensors(folder, MASTERS, manifest.slices) as masters, torch.no_grad():
        _check_model(masters.shapes(), parameters, rows, path=folder / MASTERS)
        for name, parameter in parameters.items():
            parameter.copy_(masters.read(name, rows[name]))
    optimizer.state.clear()
    of_parameter: dict[str, dict[str, Tensor]] = {}
    with SlicedTensors(folder, MOMENTS, manifest.slices) as moments:
        for place in moments.names:
            name, key = place.rsplit("/", maxsplit=1)
            of_parameter.setdefault(name, {})[key] = moments.read(place, rows[name])
    for name, found in of_parameter.items():
        fill_moments(optimizer, parameters[name], found)
    own = ranks.rank if manifest.num_ranks == ranks.num_ranks else 0
    return manifest, load_file(folder / slice_file(RANDOM, own, manifest.num_ranks))


def _check_model(
    shapes: Mapping[str, tuple[int, ...]],
    parameters: Mapping[str, torch.nn.Parameter],
    rows: Mapping[str, Rows],
    *,
    path: Path,
) -> None:
    expected = {
        name: (rows[name].num, *parameter.shape[1:]) if parameter.ndim else () for name, parameter in parameters.items()
    }
    if shapes != expected:
        wrong = sorted(set(shapes.items()) ^ set(expected.items()))[0][0]
        raise IntegrityError(f"{path} is the state of another model: they differ in parameter {wrong}")


def _refuse_other_adapter(folder: Path, saved: AdapterShape | None, expected: AdapterShape | None) -> None:
    if saved == expected:
        return
    kinds = ["all weights" if shape is None else "a LoRA adapter" for shape in (saved, expected)]
    if saved is not None and expected is not None:
        first = next(one.name for one in fields(saved) if getattr(saved, one.name) != getattr(expected, one.name))
        kinds = [f"a LoRA adapter with {first} {getattr(shape, first)}" for shape in (saved, expected)]
    raise IntegrityError(
        f"{folder} is the learner's state of {kinds[0]}, expected one of {kinds[1]}; go on with the base and "
        "learner.lora that it was made with, or start a run from a published policy"
    )


def read_state_manifest(folder: Path, *, version: int, ranks: Ranks | None = None) -> StateManifest:
    """The manifest of a state whose files have all been checked against it, by the ranks in turn.

    Raises IntegrityError on all of them.
    """
    ranks = ranks or Ranks()
    manifest = ranks.from_first(lambda: read_json(folder / "state.json", StateManifest))
    if manifest.version != version:
        raise IntegrityError(f"{folder} is the state of policy {manifest.version}, expected {version}")
    num_shards = max(1, len(manifest.slices))
    expected = {slice_file(kind, i, num_shards) for kind in (MASTERS, MOMENTS) for i in range(num_shards)}
    expected |= {slice_file(RANDOM, i, manifest.num_ranks) for i in range(manifest.num_ranks)}
    files = sorted({*expected, *manifest.sha256})
    wrong = [_difference(folder / file, manifest.sha256.get(file)) for file in files[ranks.rank :: ranks.num_ranks]]
    for message in (message for found in ranks.gather(wrong) for message in found if message is not None):
        raise IntegrityError(message)
    return manifest


def _difference(path: Path, sha256: str | None) -> str | None:
    found = hash_file(path) if path.exists() else "nothing"
    if found == sha256:
        return None
    return (
        f"{path} was truncated, altered or removed: sha256 {found[:12]}, expected "
        f"{(sha256 or 'nothing')[:12]}; restore it, or fork the run from an earlier round"
    )


def adapter_state(folder: Path, *, version: int, ranks: Ranks | None = None) -> AdapterShape | None:
    """The adapter whose matrices a state holds; None where it holds all weights or is not there."""
    ranks = ranks or Ranks()
    is_there = ranks.from_first((folder / "state.json").exists)
    return read_state_manifest(folder, version=version, ranks=ranks).adapter if is_there else None


def saved_reference(folder: Path, manifest: StateManifest, rows: Mapping[str, Rows] | None = None) -> Tensors | None:
    """The weights of a reference that followed the policy (these rows of them), or None where the state has none."""
    if slice_file(REFERENCE, 0, max(1, len(manifest.slices))) not in manifest.sha256:
        return None
    with SlicedTensors(folder, REFERENCE, manifest.slices) as reference:
        return {name: reference.read(name, rows[name] if rows else None) for name in reference.names}


def saved_masters(folder: Path, rows: Mapping[str, Rows] | None = None) -> Tensors:
    """All parameters of a saved state, float32, or these rows of them."""
    with open_masters(folder) as masters:
        return {name: masters.read(name, rows[name] if rows else None) for name in masters.names}


def open_masters(folder: Path) -> SlicedTensors:
    """The masters of a state, to be read one by one."""
    return SlicedTensors(folder, MASTERS, read_json(folder / "state.json", StateManifest).slices)


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
