"""Arrow shards of answers and of preference pairs.

A pair shard opens with `datasets.load_dataset("arrow", data_files=...)`, and TRL's DPOTrainer accepts its columns
`prompt`, `chosen` and `rejected`, which are message lists, beside the token columns that Rondo trains on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from judge.types import Answer, PairShard, PreferencePair, Score, Verdict, VerdictShard
from rollout.shards import (
    LOGPS,
    MESSAGES,
    SCHEMA_VERSION,
    TOKENS,
    arrays_of,
    list_column,
    read_shard,
    write_json,
    write_shard,
)
from rollout.types import GroupShard, Message

# A row with b missing is a score of completion a; every other row is a verdict on a against b.
VERDICT_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("a", pa.int32()),
        ("b", pa.int32()),
        ("value", pa.float64()),
        ("outcome", pa.string()),
        ("p_a", pa.float64()),
        ("judge_id", pa.string()),
        ("source", pa.string()),
        ("consistent", pa.bool_()),
        ("reason", pa.string()),
        ("evidence", pa.binary()),
    ]
)
_PLAIN = [
    ("pair_id", pa.string()),
    ("content_hash", pa.string()),
    ("round_id", pa.int32()),
    ("prompt_id", pa.string()),
    ("outcome", pa.string()),
    ("score_chosen", pa.float64()),
    ("score_rejected", pa.float64()),
    ("margin", pa.float64()),
    ("p_chosen", pa.float64()),
    ("policy_version", pa.int32()),
    ("judge_id", pa.string()),
    ("source", pa.string()),
    ("chosen_truncated", pa.bool_()),
    ("rejected_truncated", pa.bool_()),
]
_ARRAYS = [
    ("prompt_ids", TOKENS),
    ("chosen_ids", TOKENS),
    ("rejected_ids", TOKENS),
    ("chosen_logps", LOGPS),
    ("rejected_logps", LOGPS),
]
PAIR_SCHEMA = pa.schema([("prompt", MESSAGES), ("chosen", MESSAGES), ("rejected", MESSAGES), *_ARRAYS, *_PLAIN])


def write_verdicts(
    *, run_dir: Path, shard_dir: str, groups: Sequence[GroupShard], answers: Sequence[Answer], judge_id: str
) -> VerdictShard:
    """Make a judge's answers on a chunk durable: the Arrow file, then its manifest. groups: what was judged."""
    path = f"{shard_dir}/{groups[0].chunk_id:05d}.arrow"
    sha256 = write_shard(run_dir / path, _answer_table(answers))
    shard = VerdictShard(
        path=path,
        chunk_id=groups[0].chunk_id,
        num_answers=len(answers),
        sha256=sha256,
        schema_version=SCHEMA_VERSION,
        round_id=groups[0].round_id,
        judge_id=judge_id,
        judged=tuple(group.sha256 for group in groups),
    )
    write_json((run_dir / path).with_suffix(".json"), shard, VerdictShard)
    return shard


def read_verdicts(run_dir: Path, shard: VerdictShard) -> list[Answer]:
    """Read back what write_verdicts wrote. Raises IntegrityError, naming the file, if it is anything else."""
    table = read_shard(run_dir / shard.path, shard.sha256, VERDICT_SCHEMA)
    columns = [table[name].to_pylist() for name in VERDICT_SCHEMA.names]
    answers: list[Answer] = []
    for prompt_id, a, b, value, outcome, p_a, judge_id, source, consistent, reason, evidence in zip(
        *columns, strict=True
    ):
        about = {"judge_id": judge_id, "source": source, "reason": reason, "evidence": evidence}
        if b is None:
            answers.append(Score(prompt_id=prompt_id, index=a, value=value, **about))
        else:
            answers.append(
                Verdict(prompt_id=prompt_id, a=a, b=b, outcome=outcome, p_a=p_a, consistent=consistent, **about)
            )
    return answers


def write_pairs(
    *,
    run_dir: Path,
    shard_dir: str,
    groups: GroupShard,
    pairs: Sequence[PreferencePair],
    rejected: Mapping[str, tuple[str, ...]],
    num_abstained: Mapping[str, int],
    num_filtered: Mapping[str, int] | None = None,
) -> PairShard:
    """Make the pairs of a chunk durable: the Arrow file, then its manifest. Equal pairs give equal bytes.

    rejected: ids of the chunk's prompts without a pair, by reason; num_abstained: what the judge left open, by reason;
    num_filtered: candidates dropped beside the pairs of their prompts, by reason.
    """
    path = f"{shard_dir}/{groups.chunk_id:05d}.arrow"
    sha256 = write_shard(run_dir / path, _pair_table(pairs))
    num_pairs = sum(_is_paired(pair) for pair in pairs)
    shard = PairShard(
        path=path,
        chunk_id=groups.chunk_id,
        num_pairs=num_pairs,
        num_unpaired=len(pairs) - num_pairs,
        num_prompts=len({pair.prompt_id for pair in pairs}) + sum(len(ids) for ids in rejected.values()),
        sha256=sha256,
        schema_version=SCHEMA_VERSION,
        round_id=groups.round_id,
        policy_version=groups.policy_version,
        signature=groups.signature,
        rejected=dict(rejected),
        num_abstained=dict(num_abstained),
        num_filtered=dict(num_filtered or {}),
    )
    write_json((run_dir / path).with_suffix(".json"), shard, PairShard)
    return shard


def read_pairs(run_dir: Path, shard: PairShard) -> list[PreferencePair]:
    """Read back what write_pairs wrote. Raises IntegrityError, naming the file, if it is anything else."""
    table = read_shard(run_dir / shard.path, shard.sha256, PAIR_SCHEMA)
    columns: dict[str, list[Any]] = {name: table[name].to_pylist() for name, _ in _PLAIN}
    columns |= {name: _arrays_or_none(table[name]) for name, _ in _ARRAYS}
    columns["prompt"] = [tuple(messages or ()) for messages in _messages(table["prompt"])]
    for side in ("chosen", "rejected"):
        columns[side] = [messages[0]["content"] if messages else None for messages in _messages(table[side])]
    names = list(columns)
    return [PreferencePair(**dict(zip(names, row, strict=True))) for row in zip(*columns.values(), strict=True)]


def _answer_table(answers: Sequence[Answer]) -> pa.Table:
    columns: dict[str, list[Any]] = {
        name: [getattr(answer, name, None) for answer in answers] for name in VERDICT_SCHEMA.names
    }
    columns["a"] = [answer.index if isinstance(answer, Score) else answer.a for answer in answers]
    return pa.Table.from_arrays(
        [_column(columns[field.name], field.type) for field in VERDICT_SCHEMA], schema=VERDICT_SCHEMA
    )


def _is_paired(pair: PreferencePair) -> bool:
    return pair.outcome == "chosen" and pair.chosen_ids is not None and pair.rejected_ids is not None


def _pair_table(pairs: Sequence[PreferencePair]) -> pa.Table:
    columns = {name: _column([getattr(pair, name) for pair in pairs], kind) for name, kind in _PLAIN}
    for name, kind in _ARRAYS:
        columns[name] = _nullable_lists([getattr(pair, name) for pair in pairs], kind)
    columns["prompt"] = _message_column([pair.prompt for pair in pairs])
    for side in ("chosen", "rejected"):
        texts = [getattr(pair, side) for pair in pairs]
        columns[side] = _message_column(
            [None if text is None else ({"role": "assistant", "content": text},) for text in texts]
        )
    return pa.Table.from_arrays([columns[name] for name in PAIR_SCHEMA.names], schema=PAIR_SCHEMA)


def _nullable_lists(arrays: Sequence[npt.NDArray[Any] | None], kind: pa.DataType) -> pa.ListArray:
    dtype = np.int32 if kind == TOKENS else np.float32
    nothing = np.zeros(0, dtype)
    lists = list_column([nothing if array is None else array for array in arrays], dtype)
    return _with_nulls(lists, [array is None for array in arrays])


def _message_column(rows: Sequence[Sequence[Message] | None]) -> pa.ListArray:
    flat = [message for row in rows for message in row or ()]
    roles = _column([message["role"] for message in flat], pa.string())
    contents = _column([message["content"] for message in flat], pa.string())
    structs = pa.StructArray.from_arrays([roles, contents], fields=list(MESSAGES.value_type))
    lengths = np.array([len(row or ()) for row in rows], np.int32)
    offsets = pa.array(np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)]))
    return _with_nulls(pa.ListArray.from_arrays(offsets, structs), [row is None for row in rows])


def _with_nulls(lists: pa.ListArray, missing: Sequence[bool]) -> pa.ListArray:
    if not any(missing):
        return lists
    return pa.ListArray.from_arrays(lists.offsets, lists.values, mask=pa.array(missing, pa.bool_()))


def _column(values: list[Any], kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except UnicodeEncodeError:  # a lone surrogate: a readable mark is better than a lost chunk
        marked = [v.encode(errors="replace").decode() if isinstance(v, str) else v for v in values]
        return pa.array(marked, kind)


def _messages(column: pa.ChunkedArray) -> list[list[Message] | None]:
    lists = column.combine_chunks()
    roles, contents = (lists.values.field(name).to_pylist() for name in ("role", "content"))
    flat: list[Message] = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=True)]
    offsets = lists.offsets.to_pylist()
    valid = lists.is_valid().to_pylist()
    bounds = zip(offsets, offsets[1:], valid, strict=False)
    return [flat[start:end] if there else None for start, end, there in bounds]


def _arrays_or_none(column: pa.ChunkedArray) -> list[npt.NDArray[Any] | None]:
    arrays = arrays_of(column)
    return [array if there else None for array, there in zip(arrays, column.is_valid().to_pylist(), strict=True)]
