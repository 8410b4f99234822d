"""Groups of completions made by hand, and group shards of them on disk."""

import numpy as np

from rollout.shards import hash_json, write_groups
from rollout.types import (
    Completion,
    CompletionGroup,
    PolicyRef,
    Prompt,
    PromptChunk,
    Sampling,
    TokenSignature,
    WeightSpan,
)

SIGNATURE = TokenSignature(tokenizer="t", chat_template="c", template_kwargs="k", stop_ids=(2,))
POLICY = PolicyRef(version=1, path="policies/v0001", sha256="ab" * 32)


def make_completion(index, text, *, token_ids=None, finish_reason="stop"):
    ids = np.array(token_ids if token_ids is not None else [*text.encode(errors="surrogatepass"), 2], np.int32)
    return Completion(
        index=index,
        token_ids=ids,
        logps=-np.arange(len(ids), dtype=np.float32),
        text=text,
        finish_reason=finish_reason,
        seed=None,
        weight_versions=(WeightSpan(version=1, start=0, end=len(ids)),),
    )


def make_group(texts, *, question="why?", **metadata):
    """One completion for each text; its token ids are the bytes of the text and a stop id."""
    messages = ({"role": "user", "content": question},)
    return CompletionGroup(
        prompt=Prompt(prompt_id=hash_json(messages)[:24], messages=messages, source="test", metadata=metadata),
        prompt_token_ids=np.array(list(question.encode()), np.int32),
        completions=tuple(make_completion(index, text) for index, text in enumerate(texts)),
    )


def make_shard(run_dir, groups, *, folder="rounds/0000/groups", chunk_id=0, rejected=None, round_id=0):
    """Write the groups as one durable shard of the run directory."""
    chunk = PromptChunk(
        chunk_id=chunk_id, round_id=round_id, shard_dir=folder, prompts=tuple(group.prompt for group in groups)
    )
    return write_groups(
        run_dir=run_dir,
        chunk=chunk,
        groups=groups,
        policy=POLICY,
        sampling=Sampling(num_completions=2, temperature=1.0, top_p=1.0, max_new_tokens=64),
        signature=SIGNATURE,
        rejected=rejected or {},
    )
