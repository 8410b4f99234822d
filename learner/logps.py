"""Log-probabilities of completion tokens without ever holding the logits of a whole batch."""

from collections.abc import Sequence
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from learner.batches import Batch, microbatches, num_tokens, pad
from rollout.types import Logps, TokenSequence

# 256 MiB of fp32 logits at a time: hundreds of positions of a large vocabulary, a whole batch of a small one.
CHUNK_ELEMENTS = 2**26


def completion_logps(model: PreTrainedModel, batch: Batch, *, chunk_elements: int = CHUNK_ELEMENTS) -> Tensor:
    """Log-probability (nats, temperature 1) of every completion token: float32[B, T], zero elsewhere.

    The decoder runs over all tokens but the head only over the positions that predict a completion token, in chunks
    of at most chunk_elements logits, which are computed again in the backward pass where there are several.
    A float64 model gives float64.
    """
    ids_BT, mask_BT = batch.input_ids_BT, batch.completion_mask_BT
    # Padding stands on the right and attention is causal: no real token sees any, so no mask is needed. The last
    # token of a row predicts nothing.
    decoder = model.get_decoder()
    hidden_BTD = decoder(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
    predicts_BT = mask_BT[:, 1:]
    logps_N = _head_logps(model, hidden_BTD[predicts_BT], ids_BT[:, 1:][predicts_BT], chunk_elements)
    logps_BT = torch.zeros(ids_BT.shape, dtype=logps_N.dtype, device=ids_BT.device)
    return logps_BT.masked_scatter(mask_BT, logps_N)


def _head_logps(model: PreTrainedModel, hidden_ND: Tensor, targets_N: Tensor, chunk_elements: int) -> Tensor:
    head = cast(torch.nn.Linear, model.get_output_embeddings())
    chunk = max(1, chunk_elements // head.weight.shape[0])
    if len(targets_N) <= chunk:
        return _chunk_logps(head, hidden_ND, targets_N)
    return torch.cat(
        [
            checkpoint(_chunk_logps, head, hidden_ND[start : start + chunk], targets_N[start : start + chunk],
                       use_reentrant=False, preserve_rng_state=False)
            for start in range(0, len(targets_N), chunk)
        ]
    )  # fmt: skip


def _chunk_logps(head: torch.nn.Linear, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    logits_NV = head(hidden_ND)
    wide = torch.promote_types(logits_NV.dtype, torch.float32)
    return -F.cross_entropy(logits_NV.to(wide), targets_N, reduction="none")


def compute_in(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Matrix products in `dtype`, sums and norms in fp32; nothing changes where dtype is float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype != torch.float32)


@torch.no_grad()
def score(
    model: PreTrainedModel, sequences: Sequence[TokenSequence], *, compute_dtype: torch.dtype, max_tokens: int
) -> list[Logps]:
    """Log-probabilities of each sequence's completion, float32[T], in passes of at most max_tokens padded tokens."""
    scored: list[Logps] = [np.zeros(0, np.float32)] * len(sequences)
    lengths = [num_tokens(sequence) for sequence in sequences]
    for cut in microbatches(range(len(sequences)), lengths, max_tokens=max_tokens):
        batch = pad([sequences[i] for i in cut]).to(model.device)
        with compute_in(compute_dtype, model.device):
            logps_BT = completion_logps(model, batch).cpu().numpy()
        for row_T, mask_T, i in zip(logps_BT, batch.completion_mask_BT.cpu().numpy(), cut, strict=True):
            scored[i] = row_T[mask_T]
    return scored
