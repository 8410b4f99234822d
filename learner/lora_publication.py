"""A policy with an adapter, published merged into the base or as the adapter alone."""

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from learner.lora import Adapter
from learner.lora_config import LoraConfig
from learner.model import load_model
from learner.publication import Published, Rounding, publish_policy
from learner.state import Tensors, saved_masters
from learner.state_writing import sync_files
from rollout.shards import (
    ADAPTER_BASE,
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    AdapterBase,
    hash_policy,
    publish,
    temporary_beside,
    write_json,
)
from rollout.types import PolicyRef


def publish_adapted(
    adapter: Adapter,
    lora: LoraConfig,
    *,
    matrices: Tensors,
    run_dir: Path,
    base: PolicyRef,
    source: Path,
    state_before: Path | None,
    version: int,
    rounding: Rounding,
) -> Published:
    """Write policies/vNNNN atomically and measure what was published; arguments as for `publish_policy`.

    matrices: all rows of the adapter's parameters on the CPU, where the adapter itself holds only some. Alone, an
    adapter is published in float32 as it is, so its share is 1.
    """
    before = None if state_before is None else saved_masters(state_before)
    if lora.publish == "adapter":
        return _publish_alone(adapter, matrices, run_dir=run_dir, base=base, before=before, version=version)

    def step_of(name: str) -> Tensor:
        if not adapter.changes(name):
            return torch.zeros(())
        now = adapter.delta(name, matrices).double()
        return now if before is None else now - adapter.delta(name, before).double()

    # In fp32 on the base's own weights, whatever precision the learner computes with.
    model = load_model(run_dir / base.path, device=torch.device("cpu"))
    for name, weight in model.named_parameters():
        if adapter.changes(name):
            weight.data.add_(adapter.delta(name, matrices))
    return publish_policy(
        model,
        run_dir=run_dir,
        source=source,
        state_before=state_before,
        version=version,
        rounding=rounding,
        step_of=step_of,
    )


def _publish_alone(
    adapter: Adapter, matrices: Tensors, *, run_dir: Path, base: PolicyRef, before: Tensors | None, version: int
) -> Published:
    path = f"policies/v{version:04d}"
    final = run_dir / path
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(final)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    save_file({_peft_name(name): tensor.contiguous() for name, tensor in matrices.items()}, temporary / ADAPTER_WEIGHTS)
    settings = adapter.config.to_dict() | {
        "target_modules": list(adapter.shape.targets),
        "base_model_name_or_path": None,
        "inference_mode": True,
    }
    plain = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
    write_json(temporary / ADAPTER_CONFIG, plain)
    where = os.path.relpath(run_dir / base.path, final)
    write_json(temporary / ADAPTER_BASE, AdapterBase(path=where, sha256=base.sha256), AdapterBase)
    sync_files(temporary)
    sha256 = hash_policy(temporary)
    publish(temporary, final)
    changed = sum(
        int((tensor != before[name]).sum()) if before else tensor.numel() for name, tensor in matrices.items()
    )
    elements = changed / sum(tensor.numel() for tensor in matrices.values())
    policy = PolicyRef(version=version, path=path, sha256=sha256, kind="adapter")
    return Published(policy=policy, share=1.0, elements=elements)


def _peft_name(name: str) -> str:
    return "base_model.model." + name.replace(".default.weight", ".weight")
