"""What other packages may use of rollout's files: durable writes, checked reads, completion groups, and rows."""

from rollout.adapter import ADAPTER_BASE, ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterBase, adapter_base, base_folder
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
from rollout.weights import linear_layers

__all__ = [
    "ADAPTER_BASE",
    "ADAPTER_CONFIG",
    "ADAPTER_WEIGHTS",
    "GROUP_SCHEMA",
    "LOGPS",
    "MESSAGES",
    "SCHEMA_VERSION",
    "TOKENS",
    "AdapterBase",
    "adapter_base",
    "arrays_of",
    "base_folder",
    "find_shards",
    "hash_file",
    "hash_json",
    "hash_policy",
    "linear_layers",
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
