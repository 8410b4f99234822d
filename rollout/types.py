"""The nouns that rollout produces, and the base of every section of the configuration.

Light on purpose: importing this module loads neither torch nor ray nor vllm.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict
from pydantic import Field as _Field

# The reason under which prompts are rejected that ended the processes of engines.
ENGINE_CRASHED = "engine_crashed"

TokenIds = npt.NDArray[np.int32]
Logps = npt.NDArray[np.float32]

PolicyKind = Literal["full", "adapter"]
FinishReason = Literal["stop", "length", "abort"]
Change = Literal["identity", "per_round", "operational"]
Road = Literal["folder", "shared_memory", "adapter"]  # by which new weights reached an engine


class Settings(BaseModel):
    """Base of every configuration section: frozen, unknown keys refused, each field marked with when it may change."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=())


def setting(default: Any = ..., *, change: Change, doc: str, **constraints: Any) -> Any:
    """A field of `Settings`.

    change: `identity` (needs a fork), `per_round` (needs --amend, holds from the next unopened round) or
    `operational` (changes freely). doc: one line for `rondo config schema`.
    """
    return _Field(default, description=doc, json_schema_extra={"change": change}, **constraints)


class Message(TypedDict):
    role: str
    content: str


@dataclass(frozen=True, kw_only=True)
class PolicyRef:
    """A published policy: the value by which new weights travel back to rollout.

    path is relative to the run directory; sha256 covers the names and bytes of its weight files.
    """

    version: int
    path: str
    sha256: str
    kind: PolicyKind = "full"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A conversation that ends with a user turn. prompt_id is the hash of its messages."""

    prompt_id: str
    messages: tuple[Message, ...]
    source: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How completions were sampled; recorded beside every group. num_completions is the group's size."""

    num_completions: int
    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True, kw_only=True)
class WeightSpan:
    """Tokens [start, end) of a completion were sampled by policy `version`."""

    version: int
    start: int
    end: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Completion:
    """One sampled answer.

    token_ids int32[T] as the engine sampled them, the stop id included; logps float32[T] in nats, under the
    sampling policy at its temperature and top-p; text is for people and judges, never tokenised again.
    """

    index: int
    token_ids: TokenIds
    logps: Logps
    text: str
    finish_reason: FinishReason
    seed: int | None
    weight_versions: tuple[WeightSpan, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class CompletionGroup:
    """All completions of one prompt. prompt_token_ids int32[P]: what the engine was given, template included."""

    prompt: Prompt
    prompt_token_ids: TokenIds
    completions: tuple[Completion, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenSequence:
    """A completion to be scored token by token: prompt_ids int32[P], completion_ids int32[T]."""

    prompt_ids: TokenIds
    completion_ids: TokenIds


@dataclass(frozen=True, kw_only=True)
class TokenSignature:
    """Hashes of all that turns messages into tokens; shards carry it, and the learner refuses another one."""

    tokenizer: str
    chat_template: str
    template_kwargs: str
    stop_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class PromptChunk:
    """The unit of dispatch and of durability: a fixed slice of a round's prompts, which becomes one shard.

    shard_dir is relative to the run directory, for instance rounds/0000/groups. quarantined: ids of those prompts that
    crashed engines, which are rejected unanswered.
    """

    chunk_id: int
    round_id: int
    shard_dir: str
    prompts: tuple[Prompt, ...]
    quarantined: frozenset[str] = frozenset()


@dataclass(frozen=True, kw_only=True)
class GroupShard:
    """A durable Arrow file of completion groups and its manifest, written last.

    path is relative to the run directory; rejected maps a reason to the ids of prompts that got no group.
    """

    path: str
    chunk_id: int
    num_groups: int
    num_tokens: int
    sha256: str
    schema_version: int
    round_id: int
    policy_version: int
    policy_sha256: str
    sampling: Sampling
    signature: TokenSignature
    rejected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What an engine's worker has generated since it began; aborted completions are not counted."""

    num_completions: int = 0
    num_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """What a change of weights cost one engine, and by which road they came."""

    version: int
    seconds: float
    size_bytes: int
    road: Road = "folder"
