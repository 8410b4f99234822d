"""What is done to each decoder block of a policy: activation checkpointing, and compilation."""

import functools
import shutil
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from learner import packed_attention
from learner.config import LearnerConfig
from rollout.errors import UsageError

_COMPILERS = ("g++", "clang++", "c++")


def apply_to_blocks(model: PreTrainedModel, settings: LearnerConfig) -> None:
    """Compile and checkpoint the decoder blocks as the settings say; weights, names and the log-probabilities stay.

    A checkpointed block keeps its input and runs again in the backward pass (Chen et al., "Training deep nets with
    sublinear memory cost", arXiv:1604.06174). Raises UsageError where the model has no blocks that are known, or
    where there is no compiler.
    """
    if settings.compile == "off" and settings.activation_checkpointing == "off":
        return
    if settings.compile == "blocks":
        check_compiler(model.device)
        if model.device.type == "cpu":
            # It branches by the lengths of prompts and answers: a graph of it would be compiled anew for each batch.
            AttentionInterface.register(packed_attention.NAME, torch.compiler.disable(packed_attention.attend))  # type: ignore[no-untyped-call]
    for block in decoder_blocks(model):
        # Compilation inside, checkpoint outside: what runs again is the compiled block.
        if settings.compile == "blocks":
            block.forward = _compiled(block.forward)
        if settings.activation_checkpointing == "blocks":
            block.forward = _checkpointed(block.forward)


def decoder_blocks(model: PreTrainedModel) -> Sequence[torch.nn.Module]:
    """The repeated layers of the decoder, in their order. Raises UsageError where the model does not mark them."""
    blocks = [module for module in model.get_decoder().modules() if isinstance(module, GradientCheckpointingLayer)]
    if not blocks:
        raise UsageError(
            f"{type(model).__name__} does not say which of its layers repeat, which learner.activation_checkpointing "
            "and learner.compile need; leave both off"
        )
    return blocks


def check_compiler(device: torch.device) -> None:
    """Raise UsageError where torch.compile could not make a kernel for the device."""
    if device.type == "cpu" and sys.platform != "win32" and not any(map(shutil.which, _COMPILERS)):
        raise UsageError(
            f"learner.compile is blocks, which needs a C++ compiler, got none of {', '.join(_COMPILERS)} on the PATH; "
            "install one, or set learner.compile to off"
        )


def _checkpointed(forward: Callable[..., Any]) -> Callable[..., Any]:
    # Nothing in a block is random (no dropout), so there is no random state to keep.
    run = functools.partial(checkpoint, forward, use_reentrant=False, preserve_rng_state=False)
    return functools.wraps(forward)(run)


def _compiled(forward: Callable[..., Any]) -> Callable[..., Any]:
    # Every batch has another number of tokens: one kernel for all of them.
    compiled: Callable[..., Any] = torch.compile(forward, dynamic=True)
    return functools.wraps(forward)(compiled)
