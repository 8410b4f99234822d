"""What other packages may use of rollout's files: durable writes, checked reads, completion groups, and rows."""

from rollout.files import (
    SCHEMA_VERSION,
    hash_file,
    hash_json,
    hash_policy,
    publish,
    read_json,
    read_shard,
    remove_temporaries,
    temporary_beside,
    write_bytes,
    write_json,
    write_shard,
)
from rollout.groups import (
    GROUP_SCHEMA,
    LOGPS,
    MESSAGES,
    TOKENS,
    arrays_of,
    find_shards,
    list_column,
    read_groups,
    write_groups,
)
from rollout.rows import read_rows

__all__ = [
    "GROUP_SCHEMA",
    "LOGPS",
    "MESSAGES",
    "SCHEMA_VERSION",
    "TOKENS",
    "arrays_of",
    "find_shards",
    "hash_file",
    "hash_json",
    "hash_policy",
    "list_column",
    "publish",
    "read_groups",
    "read_json",
    "read_rows",
    "read_shard",
    "remove_temporaries",
    "temporary_beside",
    "write_bytes",
    "write_groups",
    "write_json",
    "write_shard",
]
