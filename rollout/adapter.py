"""The folder of an adapter policy: what peft writes, and which base it belongs to.

adapter_model.safetensors   adapter_config.json   the LoRA matrices and how they are applied, as peft names them
base.json                   where the base policy lies, seen from this folder, and its sha256
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rollout.errors import IntegrityError
from rollout.files import read_json

ADAPTER_WEIGHTS, ADAPTER_CONFIG, ADAPTER_BASE = "adapter_model.safetensors", "adapter_config.json", "base.json"


@dataclass(frozen=True, kw_only=True)
class AdapterBase:
    """The policy that an adapter changes. path is relative to the adapter's folder."""

    path: str
    sha256: str


def adapter_base(folder: Path) -> AdapterBase | None:
    """The base of an adapter policy; None where the folder holds a full policy. Raises IntegrityError."""
    return read_json(folder / ADAPTER_BASE, AdapterBase) if (folder / ADAPTER_CONFIG).exists() else None


def base_folder(folder: Path) -> Path:
    """Where configuration, tokenizer and whole weights lie: the base of an adapter policy, a full policy itself."""
    base = adapter_base(folder)
    return folder if base is None else Path(os.path.normpath(folder / base.path))


def adapter_rank(folder: Path) -> int:
    """The rank of an adapter, after a look at its files. Raises IntegrityError where one is missing or cut off."""
    try:
        with safe_open(folder / ADAPTER_WEIGHTS, framework="np") as file:
            ranks = {file.get_slice(name).get_shape()[0] for name in file.keys() if ".lora_A." in name}  # noqa: SIM118
        rank = int(json.loads((folder / ADAPTER_CONFIG).read_text())["r"])
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise IntegrityError(f"{folder} is not a whole adapter ({error}); publish it again") from error
    if ranks != {rank}:
        raise IntegrityError(f"{folder / ADAPTER_WEIGHTS} has matrices of ranks {sorted(ranks)}, expected {rank}")
    return rank
