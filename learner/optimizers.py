"""AdamW with fp32 or 8-bit moments, and its state as plain tensors that can be written and read back bit for bit."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from learner.config import LearnerConfig
from rollout.errors import UsageError

# Tables that all parameters share and that the library makes by itself.
_TABLES = {"qmap1": "dynamic", "qmap2": "udynamic"}
_FP32_KEYS, _8BIT_KEYS = {"step", "exp_avg", "exp_avg_sq"}, {"step", "state1", "state2", "absmax1", "absmax2"}


def build_optimizer(parameters: Sequence[torch.nn.Parameter], settings: LearnerConfig) -> Optimizer:
    """AdamW in which norms and biases do not decay. Raises UsageError where the 8-bit one is not installed.

    8-bit: moments in blocks of 256 with a scale each, small tensors in fp32 (Dettmers et al., "8-bit optimizers via
    block-wise quantization", arXiv:2110.02861), by bitsandbytes.
    """
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    kind, own = (_adamw_8bit(), {}) if settings.optimizer == "adamw_8bit" else (torch.optim.AdamW, {"fused": True})
    optimizer: Optimizer = kind(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        eps=settings.adam_epsilon,
        **own,
    )
    return optimizer


def moments_of(optimizer: Optimizer, parameter: torch.nn.Parameter) -> dict[str, Tensor]:
    """A parameter's part of the optimizer's state; empty before its first step."""
    state = optimizer.state.get(parameter, {})
    return {key: torch.as_tensor(value) for key, value in state.items() if key not in _TABLES}


def fill_moments(optimizer: Optimizer, parameter: torch.nn.Parameter, moments: Mapping[str, Tensor]) -> None:
    """Give back what `moments_of` gave. Raises UsageError where another kind of AdamW wrote it."""
    is_8bit = not isinstance(optimizer, torch.optim.AdamW)
    known = _8BIT_KEYS if is_8bit else _FP32_KEYS
    if not moments.keys() <= known:
        got, expected = ("adamw", "adamw_8bit") if is_8bit else ("adamw_8bit", "adamw")
        raise UsageError(
            f"the learner's state holds moments of learner.optimizer {got}, expected {expected}; go on with {got}, "
            "or fork the run from its base"
        )
    state: dict[str, Any] = {key: moment.to(parameter.device) for key, moment in moments.items()}
    if is_8bit and state:
        state["step"] = int(state["step"])
        if state["state1"].dtype == torch.uint8:
            state |= {key: _table(optimizer, name, parameter.device) for key, name in _TABLES.items()}
    optimizer.state[parameter] = state


def _adamw_8bit() -> Any:
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError as error:
        raise UsageError(
            f"learner.optimizer is adamw_8bit, which needs bitsandbytes, got {error}; pip install bitsandbytes, "
            "or choose adamw"
        ) from error
    return AdamW8bit


def _table(optimizer: Any, name: str, device: torch.device) -> Tensor:
    """One of the tables of 256 values that the codes of moments stand for, one for all parameters of the device."""
    if name not in optimizer.name2qmap:
        optimizer.fill_qmap()
    table: Tensor = optimizer.name2qmap[name].to(device)
    optimizer.name2qmap[name] = table
    return table
