"""From fp32 masters to a published policy: a Hugging Face folder that vLLM and transformers load as it is.

A published policy is rounded, and at small learning rates rounding eats most of an update. So each publication
reports how much of the masters' step it carried.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from learner.model import load_model
from learner.state import Tensors, open_masters
from learner.state_writing import sync_files
from rollout.errors import UsageError
from rollout.shards import base_folder, hash_policy, publish, temporary_beside, write_json
from rollout.types import PolicyRef

StepOf = Callable[[str], Tensor]
_COPIED_SUFFIXES = {".json", ".txt", ".model", ".jinja", ".tiktoken"}


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """How masters become published weights. seed decides stochastic rounding together with the policy's version."""

    dtype: torch.dtype
    mode: Literal["nearest", "stochastic"] = "nearest"
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Published:
    """share: <published step, masters' step> / |masters' step|^2, 1 where all of the update arrived (or none was
    made); elements: the fraction of published weights that changed."""

    policy: PolicyRef
    share: float
    elements: float


def publish_policy(
    model: PreTrainedModel,
    *,
    run_dir: Path,
    source: Path,
    state_before: Path | None,
    version: int,
    rounding: Rounding,
    masters: Tensors | None = None,
    step_of: StepOf | None = None,
) -> Published:
    """Write policies/vNNNN atomically and measure what was published.

    masters: all rows of the model's parameters on the CPU, where the model itself holds only some.
    source: the folder of the policy that this one came from, whose tokenizer and generation files are copied.
    state_before: that policy's learner state, None for the base, whose masters are its own weights.
    step_of: the masters' step of a parameter, where it is known otherwise than by the difference to that state.
    """
    path = f"policies/v{version:04d}"
    final = run_dir / path
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(final)
    shutil.rmtree(temporary, ignore_errors=True)
    masters = masters or {name: parameter.detach().cpu() for name, parameter in model.named_parameters()}
    rounded = rounded_parameters(masters, version=version, rounding=rounding)
    share, elements = published_share(masters, rounded, source=source, state_before=state_before, step_of=step_of)
    _save(model, rounded, folder=temporary, source=source, dtype=rounding.dtype)
    sha256 = hash_policy(temporary)
    publish(temporary, final)
    return Published(policy=PolicyRef(version=version, path=path, sha256=sha256), share=share, elements=elements)


def rounded_parameters(masters: Tensors, *, version: int, rounding: Rounding) -> dict[str, Tensor]:
    """The masters, which are on the CPU, each rounded to the published dtype."""
    generator = torch.Generator().manual_seed((rounding.seed * 1_000_003 + version) % 2**63)
    stochastic = rounding.mode == "stochastic" and rounding.dtype != torch.float32
    if stochastic and rounding.dtype != torch.bfloat16:
        raise UsageError(f"publish_rounding: stochastic gives bfloat16, not {rounding.dtype}; use nearest")
    if stochastic:
        return {name: stochastic_bfloat16(master, generator) for name, master in masters.items()}
    return {name: master.to(rounding.dtype, copy=True) for name, master in masters.items()}


def stochastic_bfloat16(values: Tensor, generator: torch.Generator) -> Tensor:
    """Round finite float32 up or down to bfloat16 with the probability that keeps the mean.

    bfloat16 is the upper half of float32, so noise added to the lower half carries over just that often.
    """
    noise = torch.randint(0, 2**16, values.shape, generator=generator, dtype=torch.int32)
    bits = (values.contiguous().view(torch.int32) + noise) & -(2**16)
    return bits.view(torch.float32).to(torch.bfloat16)


def published_share(
    masters: Tensors,
    rounded: Tensors,
    *,
    source: Path,
    state_before: Path | None,
    step_of: StepOf | None = None,
) -> tuple[float, float]:
    """Share and changed elements of an update (see `Published`), against what really lies on disk."""
    before = load_model(source, device=torch.device("cpu"), dtype=None).state_dict()
    product = square = 0.0
    num_changed = num_total = 0
    with ExitStack() as opened:
        is_needed = state_before is not None and step_of is None
        old_masters = opened.enter_context(open_masters(state_before)) if state_before and is_needed else None
        for name, master in masters.items():
            old = before[name]
            published_step = rounded[name].double() - old.double()
            if step_of is not None:
                master_step = step_of(name).double()
            else:
                old_master = old.float() if old_masters is None else old_masters.read(name)
                master_step = master.double() - old_master.double()
            product += (published_step * master_step).sum().item()
            square += master_step.square().sum().item()
            num_changed += int(published_step.count_nonzero())
            num_total += published_step.numel()
    return product / square if square > 0 else 1.0, num_changed / max(1, num_total)


def _save(
    model: PreTrainedModel, rounded: Mapping[str, Tensor], *, folder: Path, source: Path, dtype: torch.dtype
) -> None:
    # Tied parameters are one parameter under several names.
    first_name = {parameter: name for name, parameter in model.named_parameters()}
    named = {name: rounded[first_name[p]] for name, p in model.named_parameters(remove_duplicate=False)}
    tensors = {name: named.get(name, tensor) for name, tensor in model.state_dict().items()}
    # The source's generation settings are copied as they are: transformers refuses to write some that it can read.
    model.generation_config = GenerationConfig()
    model.save_pretrained(folder, state_dict=tensors)
    (folder / "generation_config.json").unlink(missing_ok=True)
    for path in sorted(base_folder(source).iterdir()):
        is_weights = path.name == "config.json" or path.name.endswith(".index.json")
        if path.is_file() and path.suffix in _COPIED_SUFFIXES and not is_weights:
            shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    write_json(folder / "config.json", config)
    sync_files(folder)
