"""What other packages may use of rollout's files: durable writes, checked reads, completion groups, rows, weights."""

from rollout.adapter import ADAPTER_BASE, ADAPTER_CONFIG, ADAPTER_WEIGHTS, AdapterBase, adapter_base, base_folder
from rollout.attempt import attempt_environment, attempt_file, newest_attempt, work_for
from rollout.files import (
    SCHEMA_VERSION,
    discard,
    hash_file,
    hash_json,
    hash_policy,
    is_temporary,
    publish,
    read_json,
    read_shard,
    remove_temporaries,
    sync_folders,
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
from rollout.shared_weights import WeightOffer, ask_for_offers, offered_weights
from rollout.storage import Folder, Storage
from rollout.weight_source import WeightSource, folder_source
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
    "Folder",
    "Storage",
    "WeightOffer",
    "WeightSource",
    "adapter_base",
    "arrays_of",
    "ask_for_offers",
    "attempt_environment",
    "attempt_file",
    "base_folder",
    "discard",
    "find_shards",
    "folder_source",
    "hash_file",
    "hash_json",
    "hash_policy",
    "is_temporary",
    "linear_layers",
    "list_column",
    "newest_attempt",
    "offered_weights",
    "publish",
    "read_groups",
    "read_json",
    "read_rows",
    "read_shard",
    "remove_temporaries",
    "sync_folders",
    "temporary_beside",
    "work_for",
    "write_bytes",
    "write_groups",
    "write_json",
    "write_shard",
]
