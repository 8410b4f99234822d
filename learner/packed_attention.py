"""Attention over packed rows: a completion's token sees its prompt and its own past, and nothing of its siblings.

On a CPU each prompt and each completion is a causal block, and a group's completions attend to their prompt
together; the two partial results are joined by their log-sum-exp, and so are their gradients (Dao et al.,
"FlashAttention", arXiv:2205.14135, section 3; Liu et al., "Ring Attention", arXiv:2310.01889). Elsewhere it is
FlexAttention with the same rule as a block mask.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from learner.packing import Group
from learner.sequence import TokenExchange

NAME = "rondo_packed"
# What other models ask of attention, which the packed one does not do.
_UNSUPPORTED = ("sliding_window", "softcap", "s_aux", "position_bias", "chunk_size")
_BLOCK = 128


class PackedRow:
    """What the attention of every layer is told about one packed row: its groups, and their mask where one is used.

    exchange: where several ranks have the row's tokens, what gives each of them some of the heads instead.
    """

    def __init__(
        self,
        groups: Sequence[Group],
        *,
        num_tokens: int,
        device: torch.device,
        exchange: TokenExchange | None = None,
    ) -> None:
        self.groups, self.exchange = groups, exchange
        self.block_mask = None if device.type == "cpu" else block_mask(groups, num_tokens=num_tokens, device=device)


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed_row: PackedRow | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """A transformers attention function, [B, H, N, D] to [B, N, H, D]; without a packed row it is plain SDPA.

    Raises NotImplementedError where the model asks for more than scaled, grouped, causal attention.
    """
    if packed_row is None:
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out, None
    asked = [name for name in _UNSUPPORTED if kwargs.get(name) is not None]
    if asked or dropout or attention_mask is not None or not getattr(module, "is_causal", True):
        raise NotImplementedError(f"packed rows allow only causal attention without dropout, got {asked}")
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    exchange = packed_row.exchange
    if exchange is None:
        return _whole_row(query, key, value, packed_row, scale), None
    if key.shape[1] % exchange.num:
        key, value = _as_many_heads(query, key, value)
    query, key, value = (exchange.to_heads(tensor) for tensor in (query, key, value))
    return exchange.to_tokens(_whole_row(query, key, value, packed_row, scale)), None


def _whole_row(query: Tensor, key: Tensor, value: Tensor, packed_row: PackedRow, scale: float) -> Tensor:
    """[1, H, N, D] to [1, N, H, D]."""
    if packed_row.block_mask is not None:
        out = _compiled_flex()(
            query, key, value, block_mask=packed_row.block_mask, scale=scale, enable_gqa=key.shape[1] != query.shape[1]
        )
        return out.transpose(1, 2).contiguous()
    key, value = _as_many_heads(query, key, value)
    out_NHD: Tensor = _GroupAttention.apply(query, key, value, tuple(packed_row.groups), scale)  # type: ignore[no-untyped-call]
    return out_NHD


def _as_many_heads(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    num_shared = query.shape[1] // key.shape[1]
    if num_shared == 1:
        return key, value
    return key.repeat_interleave(num_shared, dim=1), value.repeat_interleave(num_shared, dim=1)


def block_mask(groups: Sequence[Group], *, num_tokens: int, device: torch.device) -> BlockMask:
    """The rule for FlexAttention: not ahead, in the same group, and in the prompt or in one's own completion."""
    group_N = torch.zeros(num_tokens, dtype=torch.int32, device=device)
    segment_N = torch.zeros(num_tokens, dtype=torch.int32, device=device)
    for number, group in enumerate(groups):
        group_N[group.prompt[0] : group.all_completions[1]] = number
        for place, (start, end) in enumerate(group.completions, start=1):
            segment_N[start:end] = place

    def sees(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (segment_N[key] == 0) | (segment_N[key] == segment_N[query])
        return (key <= query) & (group_N[key] == group_N[query]) & own

    return create_block_mask(sees, None, None, num_tokens, num_tokens, device=str(device), BLOCK_SIZE=_BLOCK)


@cache
def _compiled_flex() -> Callable[..., Tensor]:
    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=True)
    return compiled


class _GroupAttention(torch.autograd.Function):
    """[1, H, N, D] queries, keys and values to [1, N, H, D]; heads of all three are as many."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, groups: tuple[Group, ...], scale: float) -> Tensor:
        _, num_heads, num_tokens, size = query.shape
        out_NHD = torch.empty(1, num_tokens, num_heads, size, dtype=query.dtype, device=query.device)
        out = out_NHD.transpose(1, 2)
        wide = torch.promote_types(query.dtype, torch.float32)
        lse_NH = torch.empty(1, num_tokens, num_heads, dtype=wide, device=query.device)
        lse = lse_NH.transpose(1, 2)
        for queries, keys, causal in _blocks(groups):
            at, seen = slice(*queries), slice(*keys)
            part, part_lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                query[:, :, at], key[:, :, seen], value[:, :, seen], 0.0, causal, scale=scale
            )
            if causal:
                out[:, :, at], lse[:, :, at] = part, part_lse
                continue
            # A group's completions, whose own past is there already, see their prompt too.
            joined = torch.logaddexp(lse[:, :, at], part_lse)
            own_share = (lse[:, :, at] - joined).exp_()[..., None]
            prompt_share = (part_lse - joined).exp_()[..., None]
            out[:, :, at] = out[:, :, at] * own_share + part * prompt_share
            lse[:, :, at] = joined
        ctx.save_for_backward(query, key, value, out_NHD, lse_NH)
        ctx.groups, ctx.scale = groups, scale
        return out_NHD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out_NHD: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out_NHD, lse_NH = ctx.saved_tensors
        out, lse, grad_out = out_NHD.transpose(1, 2), lse_NH.transpose(1, 2), grad_out_NHD.transpose(1, 2)
        grads = [torch.zeros_like(tensor.transpose(1, 2)).transpose(1, 2) for tensor in (query, key, value)]
        for queries, keys, causal in _blocks(ctx.groups):
            at, seen = slice(*queries), slice(*keys)
            parts = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
                grad_out[:, :, at],
                query[:, :, at],
                key[:, :, seen],
                value[:, :, seen],
                out[:, :, at],
                lse[:, :, at],
                0.0,
                causal,
                scale=ctx.scale,
            )
            for grad, part, where in zip(grads, parts, (at, seen, seen), strict=True):
                grad[:, :, where] += part
        return (*grads, None, None)


def _blocks(groups: Sequence[Group]) -> Sequence[tuple[tuple[int, int], tuple[int, int], bool]]:
    """(queries, keys, is causal) of each product; a prompt's block for its completions comes after their own."""
    blocks = []
    for group in groups:
        for span in (group.prompt, *group.completions):
            if span[0] < span[1]:
                blocks.append((span, span, True))
        if group.all_completions[0] < group.all_completions[1]:
            blocks.append((group.all_completions, group.prompt, False))
    return blocks


AttentionInterface.register(NAME, attend)
