"""The shape of a decoder, from its config.json: no weights are read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from learner.base_config import ScratchConfig
from orchestrator.config import PolicyConfig
from rollout.errors import UsageError

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder with gated feed-forward layers, each with num_experts of them, of which a token passes some.

    Biases are left out: they are less than a thousandth of the parameters.
    """

    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocabulary_size: int
    tied: bool
    num_experts: int = 1
    experts_per_token: int = 1

    @property
    def num_parameters(self) -> int:
        """All weights."""
        embeddings = self.vocabulary_size * self.hidden_size * (1 if self.tied else 2)
        router = self.hidden_size * self.num_experts if self.num_experts > 1 else 0
        norms = 2 * self.hidden_size
        layer = self._attention + self._feed_forward * self.num_experts + router + norms
        return embeddings + self.num_layers * layer + self.hidden_size

    @property
    def num_multiplied(self) -> int:
        """Weights that a token is multiplied with: those of its experts and the output head, no embeddings."""
        layer = self._attention + self._feed_forward * self.experts_per_token
        return self.num_layers * layer + self.vocabulary_size * self.hidden_size

    def forward_flops(self, num_tokens: float, *, context: float) -> float:
        """Of num_tokens that each attend to `context` positions: two a weight, and four a head's width and position."""
        attention = 4 * self.num_layers * self.num_heads * self.head_size * context
        return num_tokens * (2 * self.num_multiplied + attention)

    def cache_bytes(self, width: int) -> int:
        """Keys and values of one position, in numbers of `width` bytes."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_size * width

    @property
    def _attention(self) -> int:
        width = self.num_heads * self.head_size
        return 2 * self.hidden_size * width + 2 * self.hidden_size * self.num_kv_heads * self.head_size

    @property
    def _feed_forward(self) -> int:
        return 3 * self.hidden_size * self.intermediate_size


def policy_shape(policy: PolicyConfig) -> ModelShape:
    """The shape of the base policy; of a hub name only config.json is fetched. Raises UsageError."""
    if policy.scratch is not None:
        return _of_scratch(policy.scratch)
    assert policy.path is not None
    path = Path(policy.path) / "config.json"
    if not Path(policy.path).is_dir():
        try:
            path = Path(hf_hub_download(policy.path, "config.json"))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise UsageError(
                f"policy.path {policy.path} is no folder, and its config.json could not be fetched "
                f"({type(error).__name__}); give a folder that holds it, weights are not needed"
            ) from error
    try:
        return parse_shape(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, KeyError, ValueError) as error:
        raise UsageError(f"{path} does not describe a decoder: {type(error).__name__} {error}") from error


def parse_shape(config: dict[str, Any]) -> ModelShape:
    """A Hugging Face config.json, or the text part of one. Raises KeyError for what it lacks."""
    text = config.get("text_config", config)
    heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
    experts = text.get("num_local_experts") or text.get("num_experts") or 1
    return ModelShape(
        num_layers=int(text["num_hidden_layers"]),
        hidden_size=hidden,
        intermediate_size=int((experts > 1 and text.get("moe_intermediate_size")) or text["intermediate_size"]),
        num_heads=heads,
        num_kv_heads=int(text.get("num_key_value_heads") or heads),
        head_size=int(text.get("head_dim") or hidden // heads),
        vocabulary_size=int(text["vocab_size"]),
        tied=bool(text.get("tie_word_embeddings", config.get("tie_word_embeddings", False))),
        num_experts=int(experts),
        experts_per_token=int(text.get("num_experts_per_tok") or 1),
    )


def _of_scratch(scratch: ScratchConfig) -> ModelShape:
    return ModelShape(
        num_layers=scratch.num_layers,
        hidden_size=scratch.hidden_size,
        intermediate_size=scratch.intermediate_size,
        num_heads=scratch.num_heads,
        num_kv_heads=scratch.num_kv_heads,
        head_size=scratch.hidden_size // scratch.num_heads,
        vocabulary_size=scratch.vocabulary_size,
        tied=True,
    )
