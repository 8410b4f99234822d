"""How the base policy comes to be: the `scratch:` and `sft:` parts of the configuration's `policy:` section."""

from typing import Literal, Self

from pydantic import model_validator

from learner.config import AdamBeta
from rollout.types import Settings, setting


class ScratchConfig(Settings):
    """A Llama-shaped policy with random weights and a byte-level BPE tokenizer of its own."""

    corpus: str | None = setting(
        None, change="identity", doc="demonstrations to train the tokenizer on; by default those of sft, else bytes"
    )
    vocabulary_size: int = setting(1600, change="identity", ge=300, doc="most ids the tokenizer may have")
    hidden_size: int = setting(384, change="identity", ge=32, doc="width of the residual stream")
    intermediate_size: int = setting(896, change="identity", ge=32, doc="width of the feed-forward layers")
    num_layers: int = setting(2, change="identity", ge=1, doc="decoder layers")
    num_heads: int = setting(6, change="identity", ge=1, doc="attention heads; hidden_size / num_heads is their size")
    num_kv_heads: int = setting(2, change="identity", ge=1, doc="key and value heads, shared by groups of heads")
    context_length: int = setting(256, change="identity", ge=32, doc="tokens of prompt and answer that fit")

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.hidden_size % self.num_heads or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"got hidden_size {self.hidden_size}, num_heads {self.num_heads}, num_kv_heads {self.num_kv_heads}; "
                "expected num_heads to divide hidden_size and num_kv_heads to divide num_heads"
            )
        if self.hidden_size // self.num_heads % 32:
            raise ValueError(
                f"got heads of {self.hidden_size // self.num_heads} (hidden_size / num_heads), expected a multiple "
                "of 32: the engine's attention takes no other"
            )
        return self


class SftConfig(Settings):
    """Supervised fine-tuning on demonstrations before the first round."""

    demonstrations: str = setting(
        change="identity", doc="file, folder, hub name or module:function with rows {prompt, completion} or {messages}"
    )
    split: str = setting("train", change="identity", doc="split of the demonstrations, where they have several")
    num_epochs: int = setting(1, change="identity", ge=1, doc="passes over the demonstrations")
    batch_rows: int = setting(64, change="identity", ge=1, doc="demonstrations an optimizer step")
    learning_rate: float = setting(2e-5, change="identity", gt=0, doc="AdamW's learning rate at its peak")
    schedule: Literal["cosine", "linear"] = setting("cosine", change="identity", doc="how the rate falls to zero")
    warmup_share: float = setting(0.05, change="identity", ge=0, lt=1, doc="share of the steps with a rising rate")
    weight_decay: float = setting(
        0.0, change="identity", ge=0, doc="decoupled weight decay of matrices, never of norms"
    )
    adam_betas: tuple[AdamBeta, AdamBeta] = setting((0.9, 0.999), change="identity", doc="AdamW's moment decays")
    max_grad_norm: float = setting(1.0, change="identity", gt=0, doc="gradients are clipped to this global norm")
    max_length: int | None = setting(
        None, change="identity", ge=2, doc="tokens of prompt and answer; longer rows are counted, never cut"
    )
