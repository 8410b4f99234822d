"""Prompts in fixed chunks: the unit of dispatch and of durability, so that a rerun makes the same shards."""

import math
from collections.abc import Sequence

from rollout.types import Prompt, PromptChunk

# A chunk costs the driver some milliseconds of calls and stands in the round's record: the larger a round, the larger
# its chunks, so that neither grows with it.
_MAX_CHUNKS = 1024


def in_chunks(prompts: Sequence[Prompt], size: int, *, round_id: int, shard_dir: str) -> list[PromptChunk]:
    """Consecutive slices of at most `size` prompts, numbered; larger ones where these were more than 1,024."""
    size = max(size, math.ceil(len(prompts) / _MAX_CHUNKS))
    return [
        PromptChunk(chunk_id=n, round_id=round_id, shard_dir=shard_dir, prompts=tuple(prompts[start : start + size]))
        for n, start in enumerate(range(0, len(prompts), size))
    ]
