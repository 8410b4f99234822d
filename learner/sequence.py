"""Ranks that share the tokens of one packed row, and in its attention the heads instead.

Jacobs et al., "DeepSpeed Ulysses" (arXiv:2309.14509): all but attention treats tokens one by one, and attention treats
heads one by one, so that two exchanges a layer are all that ranks tell each other of a row.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import PreTrainedModel

from rollout.errors import UsageError

# What these do to positions depends on the longest one of a row, of which each rank sees a part.
_OF_WHOLE_ROWS = ("dynamic", "longrope")


class TokenExchange:
    """One of `num` ranks that hold equally many tokens of a row each, in their order. group: their process group."""

    def __init__(self, group: Any, *, rank: int, num: int) -> None:
        self._group, self.rank, self.num = group, rank, num

    def own(self, num_tokens: int) -> slice:
        """This rank's tokens of a row, whose length is a multiple of the ranks."""
        size = num_tokens // self.num
        return slice(self.rank * size, (self.rank + 1) * size)

    def to_heads(self, own: Tensor) -> Tensor:
        """All heads of the rank's S tokens to its heads of all N tokens: [1, H, S, D] to [1, H / num, N, D]."""
        _, num_heads, size, width = own.shape
        by_heads = own.reshape(self.num, num_heads // self.num, size, width)
        by_tokens: Tensor = _Swap.apply(by_heads.contiguous(), self._group)  # type: ignore[no-untyped-call]
        return by_tokens.transpose(0, 1).reshape(1, num_heads // self.num, self.num * size, width)

    def to_tokens(self, own: Tensor) -> Tensor:
        """The rank's heads of all N tokens to all heads of its S tokens: [1, N, H / num, D] to [1, S, H, D]."""
        _, num_tokens, num_heads, width = own.shape
        by_tokens = own.reshape(self.num, num_tokens // self.num, num_heads, width)
        by_heads: Tensor = _Swap.apply(by_tokens.contiguous(), self._group)  # type: ignore[no-untyped-call]
        return by_heads.transpose(0, 1).reshape(1, num_tokens // self.num, self.num * num_heads, width)

    def total(self, own: Tensor) -> Tensor:
        """The sum over ranks, all of which go on alike with it: each one's gradient is that of its own part."""
        found: Tensor = _Total.apply(own, self._group)  # type: ignore[no-untyped-call]
        return found


def check_sequence_parallel(model: PreTrainedModel, num: int, *, why_not_packed: str | None) -> None:
    """Raise UsageError where the tokens of a row cannot be shared out over `num` ranks."""
    config = model.config.get_text_config()
    positions = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
    reason = f"it cannot be packed: {why_not_packed}" if why_not_packed is not None else None
    if config.num_attention_heads % num:
        reason = f"it has {config.num_attention_heads} heads, expected a multiple of {num}"
    elif any(f"'{kind}'" in positions for kind in _OF_WHOLE_ROWS):
        reason = "its rotary positions depend on the longest of a row"
    if reason is not None:
        raise UsageError(
            f"learner.sequence_parallel is {num}, which {type(model).__name__} does not allow: {reason}; choose "
            "another number, or 1"
        )


class _Swap(torch.autograd.Function):
    """Part i of each rank goes to rank i, which puts them in the order of their senders; so does the gradient."""

    @staticmethod
    def forward(ctx: Any, parts: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return _swapped(parts, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _swapped(grad.contiguous(), ctx.group), None


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: Tensor, group: Any) -> Tensor:
        total = own.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


def _swapped(parts: Tensor, group: Any) -> Tensor:
    found = torch.empty_like(parts)
    dist.all_to_all_single(found, parts, group=group)
    return found
