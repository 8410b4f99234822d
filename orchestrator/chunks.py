"""Prompts in fixed chunks: the unit of dispatch and of durability, so that a rerun makes the same shards."""

from collections.abc import Sequence

from rollout.types import Prompt, PromptChunk


def in_chunks(prompts: Sequence[Prompt], size: int, *, round_id: int, shard_dir: str) -> list[PromptChunk]:
    """Consecutive slices of at most `size` prompts, numbered."""
    return [
        PromptChunk(chunk_id=n, round_id=round_id, shard_dir=shard_dir, prompts=tuple(prompts[start : start + size]))
        for n, start in enumerate(range(0, len(prompts), size))
    ]
