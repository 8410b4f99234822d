"""Log-probabilities of target tokens from hidden states and the output head, tile by tile of the logits."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# 32 MiB of fp32 logits at a time: enough rows and columns for products at full rate, little beside the activations.
TILE_ELEMENTS = 2**23
# A GPU needs larger products to be busy.
GPU_TILE_ELEMENTS = 2**26
_TILE_ROWS = 1024


def linear_logps(
    hidden_ND: Tensor, weight_VD: Tensor, bias_V: Tensor | None, targets_N: Tensor, *, tile_elements: int | None = None
) -> Tensor:
    """log softmax(hidden @ weight.T + bias)[target] (nats): float32[N], or float64[N] where hidden is float64.

    No more than tile_elements logits exist at a time, in the backward pass neither: that computes them again from the
    saved log-sum-exp of each row, unless they are one tile, which is kept. Softmax and the sum of the weight's gradient
    are fp32 (fp64 for float64) whatever the dtype of the products, which is autocast's where that is on. Recomputation:
    Chen et al., "Training deep nets with sublinear memory cost" (arXiv:1604.06174); over tiles of a head: Wijmans et
    al., "Cut your losses in large-vocabulary language models" (arXiv:2411.09009).
    """
    return token_logps(hidden_ND, weight_VD, bias_V, targets_N, tile_elements=tile_elements).logps_N


class TokenLogps(NamedTuple):
    """Of N places: the target's log-probability, and where it was asked for log sum_v p(v)^2 (nats), without gradient.

    The latter is the log of the mean probability that the policy gives a token which it draws there itself.
    """

    logps_N: Tensor
    certainty_N: Tensor | None


def token_logps(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor | None,
    targets_N: Tensor,
    *,
    certainty: bool = False,
    tile_elements: int | None = None,
) -> TokenLogps:
    """See linear_logps. certainty: whether the policy's own is wanted beside it."""
    if tile_elements is None:
        tile_elements = GPU_TILE_ELEMENTS if hidden_ND.device.type == "cuda" else TILE_ELEMENTS
    device = hidden_ND.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_ND.dtype
    operands = _Operands(hidden_ND, weight_VD, bias_V, targets_N)
    return TokenLogps(*_LinearLogps.apply(tile_elements, dtype, certainty, *operands))  # type: ignore[no-untyped-call]


class _Operands(NamedTuple):
    hidden_ND: Tensor
    weight_VD: Tensor
    bias_V: Tensor | None
    targets_N: Tensor


class _LinearLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tile_elements: int, dtype: torch.dtype, certainty: bool, *tensors: Any
    ) -> tuple[Tensor, Tensor | None]:
        operands = _Operands(*tensors)
        hidden_ND = operands.hidden_ND
        tiles = _Tiles(operands, tile_elements=tile_elements, dtype=dtype)
        lse_N = torch.full((len(hidden_ND),), -torch.inf, dtype=tiles.wide, device=hidden_ND.device)
        picked_N = torch.zeros_like(lse_N)
        squares_N = torch.full_like(lse_N, -torch.inf) if certainty else None
        ctx.kept = None
        for rows, columns, logits_RC in tiles.logits():
            place_R, is_here_R = tiles.place(rows, columns)
            picked_R = logits_RC.gather(1, place_R[:, None])[:, 0]
            picked_N[rows] = torch.where(is_here_R, picked_R, picked_N[rows])
            top_R, sum_R = _exponentiate(logits_RC)
            lse_N[rows] = torch.logaddexp(lse_N[rows], top_R + sum_R.log())
            if tiles.is_one:
                ctx.kept = (logits_RC, sum_R)
            if squares_N is not None:
                norm_R = torch.linalg.vector_norm(logits_RC, dim=1)
                squares_N[rows] = torch.logaddexp(squares_N[rows], 2 * (top_R + norm_R.log()))
        ctx.save_for_backward(*operands, lse_N)
        ctx.tile_elements, ctx.dtype = tile_elements, dtype
        certainty_N = None if squares_N is None else squares_N - 2 * lse_N
        if certainty_N is not None:
            ctx.mark_non_differentiable(certainty_N)
        return picked_N - lse_N, certainty_N

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_N: Tensor, grad_certainty_N: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, lse_N = ctx.saved_tensors
        operands = _Operands(*tensors)
        hidden_ND, weight_VD, bias_V, _ = operands
        tiles = _Tiles(operands, tile_elements=ctx.tile_elements, dtype=ctx.dtype)
        *_, wants_hidden, wants_weight, wants_bias, _ = ctx.needs_input_grad
        sums: dict[str, Any] = {"dtype": tiles.wide, "device": hidden_ND.device}
        grad_hidden_ND = torch.zeros(hidden_ND.shape, **sums) if wants_hidden else None
        grad_weight_VD = torch.zeros(weight_VD.shape, **sums) if wants_weight else None
        grad_bias_V = torch.zeros(len(weight_VD), **sums) if wants_bias else None
        kept, ctx.kept = ctx.kept, None  # it is overwritten: a second backward pass computes it again
        every = (slice(0, len(hidden_ND)), slice(0, len(weight_VD)))
        for rows, columns, logits_RC in tiles.logits() if kept is None else [(*every, kept[0])]:
            # d logp / d logits = [is the target] - softmax
            grad_R = grad_N[rows].to(tiles.wide)
            if tiles.is_one:
                sum_R = _exponentiate(logits_RC)[1] if kept is None else kept[1]
                grad_RC = logits_RC.mul_((-grad_R / sum_R)[:, None])
            else:
                grad_RC = logits_RC.sub_(lse_N[rows, None]).exp_().mul_(-grad_R[:, None])
            place_R, is_here_R = tiles.place(rows, columns)
            grad_RC.scatter_add_(1, place_R[:, None], (grad_R * is_here_R)[:, None])
            if grad_bias_V is not None:
                grad_bias_V[columns] += grad_RC.sum(dim=0)
            if grad_hidden_ND is not None:
                add_product(grad_hidden_ND[rows], grad_RC, weight_VD[columns], dtype=ctx.dtype, rounded=True)
            if grad_weight_VD is not None:
                add_product(grad_weight_VD[columns], grad_RC.T, hidden_ND[rows], dtype=ctx.dtype, rounded=True)
        return (
            *(None, None, None),
            None if grad_hidden_ND is None else grad_hidden_ND.to(hidden_ND.dtype),
            None if grad_weight_VD is None else grad_weight_VD.to(weight_VD.dtype),
            None if grad_bias_V is None or bias_V is None else grad_bias_V.to(bias_V.dtype),
            None,
        )


def _exponentiate(logits_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Each row's largest logit, and the sum of the exponentials of all less that one, which take their place."""
    top_R = logits_RC.amax(dim=1)
    return top_R, logits_RC.sub_(top_R[:, None]).exp_().sum(dim=1)


class _Tiles:
    """The logits of N rows over V columns, in blocks of rows and columns that share one buffer."""

    def __init__(self, operands: _Operands, *, tile_elements: int, dtype: torch.dtype) -> None:
        self.hidden_ND, self.weight_VD, self.bias_V, self.targets_N = operands
        self.dtype = dtype
        self.wide = torch.promote_types(dtype, torch.float32)
        num_rows, num_columns = len(self.hidden_ND), len(self.weight_VD)
        # Columns are cut first: each row of the weight's gradient is then visited once for every _TILE_ROWS tokens.
        self.columns = min(num_columns, max(1, tile_elements // max(1, min(num_rows, _TILE_ROWS))))
        self.rows = min(max(1, num_rows), max(1, tile_elements // self.columns))

    @property
    def is_one(self) -> bool:
        return len(self.hidden_ND) <= self.rows and len(self.weight_VD) <= self.columns

    def logits(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """(rows, columns, logits_RC): the tile is the caller's to overwrite until the next one is asked for."""
        buffer = torch.empty(self.rows * self.columns, dtype=self.wide, device=self.hidden_ND.device)
        for row in range(0, len(self.hidden_ND), self.rows):
            rows = slice(row, min(row + self.rows, len(self.hidden_ND)))
            for column in range(0, len(self.weight_VD), self.columns):
                columns = slice(column, min(column + self.columns, len(self.weight_VD)))
                shape = (rows.stop - rows.start, columns.stop - columns.start)
                tile_RC = buffer[: shape[0] * shape[1]].view(shape)
                add_product(tile_RC, self.hidden_ND[rows], self.weight_VD[columns].T, dtype=self.dtype, beta=0)
                if self.bias_V is not None:
                    tile_RC += self.bias_V[columns]
                yield rows, columns, tile_RC

    def place(self, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
        """Where in the tile each row's target stands, and whether it does."""
        place_R = self.targets_N[rows] - columns.start
        width = columns.stop - columns.start
        return place_R.clamp(0, width - 1), (place_R >= 0) & (place_R < width)


def add_product(
    sum_AB: Tensor, left_AK: Tensor, right_KB: Tensor, *, dtype: torch.dtype, beta: int = 1, rounded: bool = False
) -> None:
    """sum = beta sum + left @ right, the operands rounded to dtype, products and sums in the dtype of `sum`.

    rounded: the product may be rounded to dtype once more before it is added, as those of gradients elsewhere are.
    """
    with torch.autocast(sum_AB.device.type, enabled=False):
        left_AK, right_KB = left_AK.to(dtype), right_KB.to(dtype)
        if dtype != sum_AB.dtype and sum_AB.device.type == "cuda":
            torch.addmm(sum_AB, left_AK, right_KB, beta=beta, out_dtype=sum_AB.dtype, out=sum_AB)
        elif dtype != sum_AB.dtype and rounded and beta == 1:
            sum_AB.add_(left_AK @ right_KB)
        else:
            # CPUs offer no product of bf16 operands with an fp32 result.
            sum_AB.addmm_(left_AK.to(sum_AB.dtype), right_KB.to(sum_AB.dtype), beta=beta)
