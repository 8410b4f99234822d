"""What other packages may use of rollout's files: durable writes, checked reads, and completion groups as Arrow."""

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

__all__ = [
    "SCHEMA_VERSION",
    "hash_file",
    "hash_json",
    "hash_policy",
    "publish",
    "read_json",
    "read_shard",
    "remove_temporaries",
    "temporary_beside",
    "write_bytes",
    "write_json",
    "write_shard",
]
