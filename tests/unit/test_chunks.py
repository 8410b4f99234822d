"""Chunks: fixed by the prompts alone, and never so many that a round's record grows with them."""

from orchestrator.chunks import in_chunks
from orchestrator.simulation import simulated_prompts


def test_every_prompt_stands_in_one_chunk_in_order():
    prompts = simulated_prompts(7)
    chunks = in_chunks(prompts, 3, round_id=2, shard_dir="groups")
    assert [len(chunk.prompts) for chunk in chunks] == [3, 3, 1]
    assert tuple(prompt for chunk in chunks for prompt in chunk.prompts) == prompts
    assert [(chunk.chunk_id, chunk.round_id, chunk.shard_dir) for chunk in chunks] == [
        (n, 2, "groups") for n in range(3)
    ]


def test_very_many_prompts_make_larger_chunks_not_more():
    prompts = simulated_prompts(1) * 40_000
    assert len(in_chunks(prompts[:32_768], 32, round_id=0, shard_dir="")) == 1024
    chunks = in_chunks(prompts, 32, round_id=0, shard_dir="")
    assert len(chunks) <= 1024
    assert sum(len(chunk.prompts) for chunk in chunks) == 40_000
