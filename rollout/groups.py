"""Completion groups as Arrow: one row a group, one list column for each field of its completions."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rollout.files import SCHEMA_VERSION, read_json, read_shard, write_json, write_shard
from rollout.types import (
    Completion,
    CompletionGroup,
    GroupShard,
    PolicyRef,
    Prompt,
    PromptChunk,
    Sampling,
    TokenSignature,
    WeightSpan,
)

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
TOKENS = pa.list_(pa.int32())
LOGPS = pa.list_(pa.float32())
SPANS = pa.list_(pa.struct([("version", pa.int32()), ("start", pa.int32()), ("end", pa.int32())]))

# The lists after prompt_token_ids have one entry a completion. metadata is JSON text: any value, one column.
GROUP_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", MESSAGES),
        ("source", pa.string()),
        ("metadata", pa.string()),
        ("prompt_token_ids", TOKENS),
        ("index", pa.list_(pa.int32())),
        ("token_ids", pa.list_(TOKENS)),
        ("logps", pa.list_(LOGPS)),
        ("text", pa.list_(pa.string())),
        ("finish_reason", pa.list_(pa.string())),
        ("seed", pa.list_(pa.int64())),
        ("weight_versions", pa.list_(SPANS)),
    ]
)
ShardT = TypeVar("ShardT")


def write_groups(
    *,
    run_dir: Path,
    chunk: PromptChunk,
    groups: Sequence[CompletionGroup],
    policy: PolicyRef,
    sampling: Sampling,
    signature: TokenSignature,
    rejected: Mapping[str, tuple[str, ...]],
) -> GroupShard:
    """Make the groups of a chunk durable: the Arrow file, then its manifest.

    num_tokens of the manifest counts completion tokens. Equal groups give equal bytes.
    """
    path = f"{chunk.shard_dir}/{chunk.chunk_id:05d}.arrow"
    sha256 = write_shard(run_dir / path, _table(groups))
    shard = GroupShard(
        path=path,
        chunk_id=chunk.chunk_id,
        num_groups=len(groups),
        num_tokens=sum(len(completion.token_ids) for group in groups for completion in group.completions),
        sha256=sha256,
        schema_version=SCHEMA_VERSION,
        round_id=chunk.round_id,
        policy_version=policy.version,
        policy_sha256=policy.sha256,
        sampling=sampling,
        signature=signature,
        rejected=dict(rejected),
    )
    write_json((run_dir / path).with_suffix(".json"), shard, GroupShard)
    return shard


def read_groups(run_dir: Path, shard: GroupShard) -> list[CompletionGroup]:
    """Read back what write_groups wrote. Raises IntegrityError, naming the file, if it is anything else."""
    table = read_shard(run_dir / shard.path, shard.sha256, GROUP_SCHEMA)
    if table.num_rows == 0:
        return []
    plain = table.drop_columns(["prompt_token_ids", "token_ids", "logps"]).to_pylist()
    prompt_ids = arrays_of(table["prompt_token_ids"])
    token_ids, logps = iter(_inner_arrays(table["token_ids"])), iter(_inner_arrays(table["logps"]))
    return [
        CompletionGroup(
            prompt=Prompt(
                prompt_id=row["prompt_id"],
                messages=tuple(row["prompt"]),
                source=row["source"],
                metadata=json.loads(row["metadata"]),
            ),
            prompt_token_ids=ids,
            completions=tuple(
                Completion(
                    index=row["index"][place],
                    token_ids=next(token_ids),
                    logps=next(logps),
                    text=row["text"][place],
                    finish_reason=row["finish_reason"][place],
                    seed=row["seed"][place],
                    weight_versions=tuple(WeightSpan(**span) for span in row["weight_versions"][place]),
                )
                for place in range(len(row["index"]))
            ),
        )
        for row, ids in zip(plain, prompt_ids, strict=True)
    ]


def find_shards(run_dir: Path, shard_dir: str, kind: type[ShardT]) -> list[ShardT]:
    """The finished shards of a folder (relative to run_dir) in the order of their chunks; kind: type of the manifest.

    An Arrow file without a manifest is unfinished and not among them. Raises IntegrityError on a broken manifest.
    """
    return [read_json(path, kind) for path in sorted((run_dir / shard_dir).glob("[0-9]*.json"))]


def list_column(arrays: Sequence[npt.NDArray[Any]], dtype: npt.DTypeLike) -> pa.ListArray:
    """A list column with one row an array (1-D, any lengths), without a Python object per number."""
    flat = np.concatenate([np.asarray(array, dtype) for array in arrays]) if arrays else np.zeros(0, dtype)
    return pa.ListArray.from_arrays(_offsets(len(array) for array in arrays), pa.array(flat))


def arrays_of(column: pa.ChunkedArray | pa.ListArray) -> list[npt.NDArray[Any]]:
    """The writable arrays that list_column was given; a missing row comes back empty."""
    rows = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    flat = rows.flatten().to_numpy(zero_copy_only=False).copy()
    lengths = rows.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(rows) else []


def _table(groups: Sequence[CompletionGroup]) -> pa.Table:
    completions = [group.completions for group in groups]
    flat = [completion for row in completions for completion in row]
    outer = _offsets(len(row) for row in completions)

    def nested(arrays: list[npt.NDArray[Any]], dtype: npt.DTypeLike) -> pa.ListArray:
        return pa.ListArray.from_arrays(outer, list_column(arrays, dtype))

    columns = {
        "prompt_id": [group.prompt.prompt_id for group in groups],
        "prompt": [list(group.prompt.messages) for group in groups],
        "source": [group.prompt.source for group in groups],
        "metadata": [json.dumps(dict(group.prompt.metadata), ensure_ascii=True, sort_keys=True) for group in groups],
        "prompt_token_ids": list_column([group.prompt_token_ids for group in groups], np.int32),
        "index": [[completion.index for completion in row] for row in completions],
        "token_ids": nested([completion.token_ids for completion in flat], np.int32),
        "logps": nested([completion.logps for completion in flat], np.float32),
        "text": [[_valid(completion.text) for completion in row] for row in completions],
        "finish_reason": [[completion.finish_reason for completion in row] for row in completions],
        "seed": [[completion.seed for completion in row] for row in completions],
        "weight_versions": [[[vars(span) for span in one.weight_versions] for one in row] for row in completions],
    }
    arrays = [
        column if isinstance(column, pa.Array) else pa.array(column, GROUP_SCHEMA.field(name).type)
        for name, column in columns.items()
    ]
    return pa.Table.from_arrays(arrays, schema=GROUP_SCHEMA)


def _inner_arrays(column: pa.ChunkedArray) -> list[npt.NDArray[Any]]:
    return arrays_of(column.combine_chunks().flatten())


def _offsets(lengths: Iterable[int]) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(list(lengths), dtype=np.int64)]).astype(np.int32))


def _valid(text: str) -> str:
    # A detokenizer never makes lone surrogates; should one ever, a readable mark is better than a lost group.
    return text.encode("utf-8", errors="replace").decode("utf-8")
