"""An adapter of the tiny policy as peft itself writes it, with the reference to its base that Rondo adds."""

import os
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from rollout.shards import ADAPTER_BASE, AdapterBase, hash_policy, write_json


def make_tiny_adapter(folder: Path, base: Path, *, seed: int = 0, rank: int = 4, targets: str = "all-linear") -> Path:
    """Random matrices, large enough for other greedy tokens than the base's."""
    config = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=targets, task_type="CAUSAL_LM")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    where = AdapterBase(path=os.path.relpath(base, folder), sha256=hash_policy(base))
    write_json(folder / ADAPTER_BASE, where, AdapterBase)
    return folder
