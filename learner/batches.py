"""From token sequences to padded tensors, and from a round's pairs to the order in which they are learnt."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rollout.types import TokenSequence

# A further forward and backward pass costs about as much as this many tokens, so padding beyond it is worth a cut.
_PASS_COST_TOKENS = 256


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """B sequences, padded on the right to the longest: int64[B, T] ids, bool[B, T] masks.

    completion_mask_BT marks the tokens that are scored; attention_mask_BT marks all that are no padding.
    """

    input_ids_BT: Tensor
    attention_mask_BT: Tensor
    completion_mask_BT: Tensor

    def to(self, device: torch.device) -> "Batch":
        return Batch(
            input_ids_BT=self.input_ids_BT.to(device),
            attention_mask_BT=self.attention_mask_BT.to(device),
            completion_mask_BT=self.completion_mask_BT.to(device),
        )


def pad(sequences: Sequence[TokenSequence], pad_id: int = 0) -> Batch:
    """Stack sequences into one batch. Raises ValueError where a prompt is empty: nothing could predict its answer."""
    lengths = [num_tokens(sequence) for sequence in sequences]
    shape = (len(sequences), max(lengths, default=0))
    ids_BT = np.full(shape, pad_id, dtype=np.int64)
    real_BT, scored_BT = np.zeros(shape, dtype=bool), np.zeros(shape, dtype=bool)
    for row, (sequence, length) in enumerate(zip(sequences, lengths, strict=True)):
        num_prompt = len(sequence.prompt_ids)
        if num_prompt == 0:
            raise ValueError(f"sequence {row} has an empty prompt, expected at least one token (a BOS would do)")
        ids_BT[row, :num_prompt] = sequence.prompt_ids
        ids_BT[row, num_prompt:length] = sequence.completion_ids
        real_BT[row, :length] = True
        scored_BT[row, num_prompt:length] = True
    return Batch(
        input_ids_BT=torch.from_numpy(ids_BT),
        attention_mask_BT=torch.from_numpy(real_BT),
        completion_mask_BT=torch.from_numpy(scored_BT),
    )


def num_tokens(sequence: TokenSequence) -> int:
    return len(sequence.prompt_ids) + len(sequence.completion_ids)


def shuffled(keys: Sequence[str], *, seed: int, round_id: int, epoch: int) -> list[int]:
    """An order of the indices of `keys` that depends on the keys alone, not on the order in which they came."""

    def place(index: int) -> bytes:
        return hashlib.sha256(f"{seed}/{round_id}/{epoch}/{keys[index]}".encode()).digest()

    return sorted(range(len(keys)), key=place)


def split(order: Sequence[int], size: int) -> list[list[int]]:
    """Consecutive batches of `size`; the last one keeps what remains, so nothing is dropped."""
    return [list(order[start : start + size]) for start in range(0, len(order), size)]


def microbatches(
    indices: Sequence[int], lengths: Sequence[int], *, max_tokens: int, rows_per_item: int = 1
) -> list[list[int]]:
    """Cut one batch into passes of similar length, longest first.

    lengths[i]: tokens of item i's longest row; rows_per_item: 2 for pairs. A pass holds at most max_tokens with
    padding (an item longer than that has one for itself) and is closed early once padding costs more than a pass.
    """
    cuts: list[list[int]] = []
    longest = padding = 0
    for index in sorted(indices, key=lambda i: -lengths[i]):
        wasted = rows_per_item * (longest - lengths[index])
        full = bool(cuts) and rows_per_item * longest * (len(cuts[-1]) + 1) > max_tokens
        if not cuts or full or padding + wasted > _PASS_COST_TOKENS:
            cuts.append([])
            longest, padding, wasted = lengths[index], 0, 0
        cuts[-1].append(index)
        padding += wasted
    return cuts
