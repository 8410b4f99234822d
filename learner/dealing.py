"""Who computes what: items of a batch shared out over ranks by their tokens, and cut into passes."""

from collections.abc import Callable, Sequence

import numpy as np

from learner.batches import num_tokens
from rollout.types import TokenSequence

Item = Sequence[TokenSequence]
# FSDP gathers a model's parts in the forward passes of all ranks alike. A rank with fewer passes joins in the others'
# with this sequence, whose gradient is nought.
STAND_IN = TokenSequence(prompt_ids=np.zeros(1, np.int32), completion_ids=np.zeros(2, np.int32))


def passes_by_rank(
    items: Sequence[Item], cut: Callable[[Sequence[Item]], list[list[int]]], *, num_ranks: int
) -> list[list[list[int]]]:
    """For each rank its passes as indices of items; an empty one is only joined in, so that all have equally many.

    cut: cuts items into passes. Depends on the items alone, so every rank finds the same.
    """
    by_rank = []
    for share in dealt(items, num_ranks=num_ranks):
        cuts = cut([items[i] for i in share]) if share else []
        by_rank.append([[share[place] for place in places] for places in cuts])
    most = max(len(passes) for passes in by_rank)
    return [passes + [[]] * (most - len(passes)) for passes in by_rank]


def dealt(items: Sequence[Item], *, num_ranks: int) -> list[list[int]]:
    """Indices of items for each rank, with about equally many tokens; items of one prompt stay together.

    They part only where a rank would have more than its share: largest first, each to the rank that has least
    (Graham's rule). One rank has all items in their order.
    """
    if num_ranks == 1:
        return [list(range(len(items)))]
    of_prompt: dict[bytes, list[int]] = {}
    for index, item in enumerate(items):
        of_prompt.setdefault(item[0].prompt_ids.tobytes(), []).append(index)
    fair = sum(_size(items, indices) for indices in of_prompt.values()) / num_ranks
    units: list[list[int]] = []
    for indices in of_prompt.values():
        units += [indices] if _size(items, indices) <= fair else [[index] for index in indices]
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    held = [0] * num_ranks
    for unit in sorted(units, key=lambda unit: (-_size(items, unit), unit)):
        rank = held.index(min(held))
        shares[rank] += unit
        held[rank] += _size(items, unit)
    return [sorted(share) for share in shares]


def _size(items: Sequence[Item], indices: Sequence[int]) -> int:
    """Tokens of items with one prompt, which counts once."""
    prompt = len(items[indices[0]][0].prompt_ids)
    return prompt + sum(num_tokens(side) - len(side.prompt_ids) for i in indices for side in items[i])
