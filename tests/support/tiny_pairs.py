"""Preference pairs of random tokens, in memory and as shards."""

from pathlib import Path

import numpy as np

from judge.shards import write_pairs
from judge.types import PairShard, PreferencePair
from rollout.shards import hash_json
from rollout.types import GroupShard, Sampling, TokenSignature

SIGNATURE = TokenSignature(tokenizer="t", chat_template="c", template_kwargs="k", stop_ids=(2,))


def make_pair(name: str, prompt_ids, chosen_ids, rejected_ids, *, round_id: int = 0, **changed) -> PreferencePair:
    def ids(values):
        return np.asarray(values, dtype=np.int32)

    def logps(values):
        return np.zeros(len(values), dtype=np.float32)

    tokens = [[int(i) for i in side] for side in (prompt_ids, chosen_ids, rejected_ids)]
    fields = {
        "pair_id": f"{round_id}-{name}",
        "content_hash": hash_json(tokens),
        "round_id": round_id,
        "prompt_id": name,
        "prompt": ({"role": "user", "content": name},),
        "chosen": "good",
        "rejected": "bad",
        "prompt_ids": ids(prompt_ids),
        "chosen_ids": ids(chosen_ids),
        "rejected_ids": ids(rejected_ids),
        "chosen_logps": logps(chosen_ids),
        "rejected_logps": logps(rejected_ids),
        "outcome": "chosen",
        "score_chosen": 1.0,
        "score_rejected": 0.0,
        "margin": 1.0,
        "p_chosen": None,
        "policy_version": 0,
        "judge_id": "test",
        "source": "function",
        "chosen_truncated": False,
        "rejected_truncated": False,
    }
    return PreferencePair(**{**fields, **changed})


def random_pairs(
    num: int, *, seed: int = 0, round_id: int = 0, vocabulary: int = 300, prompt=(3, 10), answer=(1, 20)
) -> list[PreferencePair]:
    """prompt, answer: the range of their lengths in tokens, the upper end included."""
    random = np.random.default_rng([seed, round_id])

    def some(bounds):
        return random.integers(6, vocabulary, random.integers(bounds[0], bounds[1] + 1))

    return [make_pair(f"p{i}", some(prompt), some(answer), some(answer), round_id=round_id) for i in range(num)]


def write_pair_shard(
    run_dir: Path, pairs: list[PreferencePair], *, round_id: int = 0, chunk_id: int = 0, signature=SIGNATURE
) -> PairShard:
    groups = GroupShard(
        path=f"rounds/{round_id:04d}/groups/{chunk_id:05d}.arrow",
        chunk_id=chunk_id,
        num_groups=len(pairs),
        num_tokens=0,
        sha256="0" * 64,
        schema_version=1,
        round_id=round_id,
        policy_version=round_id,
        policy_sha256="0" * 64,
        sampling=Sampling(num_completions=2, temperature=1.0, top_p=1.0, max_new_tokens=32),
        signature=signature,
    )
    return write_pairs(
        run_dir=run_dir,
        shard_dir=f"rounds/{round_id:04d}/pairs",
        groups=groups,
        pairs=pairs,
        rejected={},
        num_abstained={},
    )
