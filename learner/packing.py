"""Sequences in one row without padding, in which each prompt stands once before all of its completions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from rollout.types import TokenSequence

Span = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Group:
    """A prompt's tokens and, right behind them, those of its completions: half-open spans of the packed row.

    A completion's last token predicts nothing, so it is not there; a span may be empty.
    """

    prompt: Span
    completions: tuple[Span, ...]

    @property
    def all_completions(self) -> Span:
        return (self.prompt[1], self.completions[-1][1] if self.completions else self.prompt[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Packed:
    """S sequences as one row of N tokens that predict M completion tokens.

    input_ids_N and position_ids_N: int64[N]; positions go on from the prompt for each of its completions.
    predictors_M: the place whose hidden state predicts target_ids_M; rows[i]: sequence i's slice of those M.
    Equal sequences are there once and share a slice.
    """

    input_ids_N: Tensor
    position_ids_N: Tensor
    predictors_M: Tensor
    target_ids_M: Tensor
    groups: tuple[Group, ...]
    rows: tuple[slice, ...]


def pack(sequences: Sequence[TokenSequence], *, device: torch.device) -> Packed:
    """Pack in order of first appearance; ValueError where a prompt is empty: nothing could predict its answer."""
    trees = _trees(sequences)
    ids: list[np.ndarray] = []
    positions: list[np.ndarray] = []
    predictors: list[np.ndarray] = []
    targets: list[np.ndarray] = []
    groups: list[Group] = []
    slices: dict[tuple[bytes, bytes], slice] = {}
    at = num_targets = 0
    for prompt, completions in trees.items():
        prompt_ids = np.frombuffer(prompt, np.int32)
        ids.append(prompt_ids)
        positions.append(np.arange(len(prompt_ids)))
        end, spans = at + len(prompt_ids), []
        start = end
        for completion in completions:
            completion_ids = np.frombuffer(completion, np.int32)
            num_fed = max(0, len(completion_ids) - 1)
            ids.append(completion_ids[:num_fed])
            positions.append(len(prompt_ids) + np.arange(num_fed))
            if len(completion_ids):
                predictors.append(np.concatenate([[end - 1], start + np.arange(num_fed)]))
            targets.append(completion_ids)
            slices[prompt, completion] = slice(num_targets, num_targets + len(completion_ids))
            spans.append((start, start + num_fed))
            start, num_targets = start + num_fed, num_targets + len(completion_ids)
        groups.append(Group(prompt=(at, end), completions=tuple(spans)))
        at = start

    def tensor(parts: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *parts]).astype(np.int64)).to(device)

    return Packed(
        input_ids_N=tensor(ids),
        position_ids_N=tensor(positions),
        predictors_M=tensor(predictors),
        target_ids_M=tensor(targets),
        groups=tuple(groups),
        rows=tuple(slices[_key(sequence)] for sequence in sequences),
    )


def filled_up(packed: Packed, *, multiple: int) -> Packed:
    """The row with so many tokens more that their number is a multiple: they see themselves alone, predict nothing."""
    num_tokens = len(packed.input_ids_N)
    num_more = -num_tokens % multiple
    if num_more == 0:
        return packed
    more = Group(prompt=(num_tokens, num_tokens + num_more), completions=())
    nought = packed.input_ids_N.new_zeros(num_more)
    return replace(
        packed,
        input_ids_N=torch.cat([packed.input_ids_N, nought]),
        position_ids_N=torch.cat([packed.position_ids_N, nought]),
        groups=(*packed.groups, more),
    )


def packed_microbatches(items: Sequence[Sequence[TokenSequence]], *, max_tokens: int) -> list[list[int]]:
    """Cut items (a pair's two sequences, say) into passes of at most max_tokens, each prompt's items side by side.

    Tokens that a pass shares count once; an item longer than max_tokens has a pass for itself.
    """
    of_prompt: dict[bytes, list[int]] = {}
    for index, item in enumerate(items):
        of_prompt.setdefault(_key(item[0])[0], []).append(index)
    cuts: list[list[int]] = []
    held: set[bytes | tuple[bytes, bytes]] = set()
    num_held = 0
    for index in (index for indices in of_prompt.values() for index in indices):
        new = _new_tokens(items[index], held)
        if not cuts or num_held + sum(new.values()) > max_tokens:
            cuts.append([])
            held, num_held = set(), 0
            new = _new_tokens(items[index], held)
        cuts[-1].append(index)
        held |= new.keys()
        num_held += sum(new.values())
    return cuts


def _new_tokens(
    item: Sequence[TokenSequence], held: set[bytes | tuple[bytes, bytes]]
) -> Mapping[bytes | tuple[bytes, bytes], int]:
    """The prompts and completions of an item that a pass does not hold yet, with their lengths."""
    new: dict[bytes | tuple[bytes, bytes], int] = {}
    for sequence in item:
        key = _key(sequence)
        new |= {key[0]: len(sequence.prompt_ids), key: len(sequence.completion_ids)}
    return {key: length for key, length in new.items() if key not in held}


def _trees(sequences: Sequence[TokenSequence]) -> Mapping[bytes, Mapping[bytes, None]]:
    trees: dict[bytes, dict[bytes, None]] = {}
    for row, sequence in enumerate(sequences):
        if len(sequence.prompt_ids) == 0:
            raise ValueError(f"sequence {row} has an empty prompt, expected at least one token (a BOS would do)")
        prompt, completion = _key(sequence)
        trees.setdefault(prompt, {})[completion] = None
    return trees


def _key(sequence: TokenSequence) -> tuple[bytes, bytes]:
    return sequence.prompt_ids.astype(np.int32).tobytes(), sequence.completion_ids.astype(np.int32).tobytes()
