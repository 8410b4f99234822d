"""The `learner:` section of the configuration."""

from typing import Annotated, Literal, Self

from annotated_types import Ge, Lt
from pydantic import model_validator

from learner.lora_config import LoraConfig
from learner.objective_config import ObjectiveConfig
from rollout.types import setting

Schedule = Literal["constant", "per_round", "whole_run"]
AdamBeta = Annotated[float, Ge(0), Lt(1)]


class LearnerConfig(ObjectiveConfig):
    """How a round's preference pairs become the next policy."""

    lora: LoraConfig | None = setting(
        None, change="per_round", doc="train a low-rank adapter beside the frozen base policy; none: all weights"
    )
    learning_rate: float = setting(5e-7, change="per_round", gt=0, doc="AdamW's learning rate at its peak")
    batch_pairs: int = setting(
        64, change="per_round", ge=1, doc="pairs an optimizer step; the last batch may be smaller"
    )
    replay_share: float = setting(
        0.0, change="per_round", ge=0, lt=1, doc="share of a round's training pairs that come from older rounds"
    )
    num_epochs: int = setting(1, change="per_round", ge=1, doc="passes over each round's pairs")
    schedule: Schedule = setting(
        "constant", change="per_round", doc="learning rate: constant, or linear to zero within each round or the run"
    )
    warmup_steps: int = setting(
        0, change="per_round", ge=0, doc="steps of linear warm-up: of the run, or of each round under per_round"
    )
    weight_decay: float = setting(
        0.0, change="per_round", ge=0, doc="decoupled weight decay of matrices, never of norms"
    )
    adam_betas: tuple[AdamBeta, AdamBeta] = setting((0.9, 0.999), change="per_round", doc="AdamW's moment decays")
    adam_epsilon: float = setting(1e-8, change="per_round", gt=0, doc="AdamW's epsilon")
    max_grad_norm: float = setting(1.0, change="per_round", gt=0, doc="gradients are clipped to this global norm")
    max_length: int | None = setting(
        None, change="per_round", ge=2, doc="tokens of prompt and answer; longer pairs are counted (see too_long)"
    )
    too_long: Literal["drop", "truncate"] = setting(
        "drop",
        change="per_round",
        doc="pairs beyond max_length or the context; truncate: answers lose their end, and the EOS with it, as in TRL",
    )
    optimizer: Literal["adamw", "adamw_8bit"] = setting(
        "adamw", change="per_round", doc="AdamW with fp32 moments, or with 8-bit ones (needs bitsandbytes)"
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", change="per_round", doc="dtype of matrix products; auto: bfloat16 where the hardware multiplies it"
    )
    publish_rounding: Literal["nearest", "stochastic"] = setting(
        "nearest", change="per_round", doc="how fp32 masters are rounded into a published policy"
    )
    publish_dtype: Literal["policy", "float32", "bfloat16"] = setting(
        "policy", change="per_round", doc="dtype of published policies; policy: that of policy.dtype"
    )
    max_tokens_per_microbatch: int = setting(
        16384, change="operational", ge=1, doc="tokens of one forward and backward pass, a shared prompt's once"
    )
    activation_checkpointing: Literal["off", "blocks"] = setting(
        "off", change="operational", doc="blocks: keep only each decoder block's input, and compute the block twice"
    )
    compile: Literal["off", "blocks"] = setting(
        "off", change="operational", doc="blocks: torch.compile each decoder block (needs a C++ compiler on a CPU)"
    )
    offload: Literal["none", "optimizer", "all"] = setting(
        "none",
        change="operational",
        doc="what leaves the GPU for pinned memory between rounds: moments, or weights and a moving reference too",
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", change="operational", doc="where the learner computes")
    cpus: float = setting(1, change="operational", gt=0, doc="CPUs that Ray reserves for the learner")
    gpus: float | None = setting(None, change="operational", ge=0, doc="GPUs; by default 1 where the cluster has any")
    num_ranks: int = setting(
        1, change="operational", ge=1, doc="processes that hold and train the model together, with cpus and gpus each"
    )
    ranks_per_node: int | None = setting(
        None, change="operational", ge=1, doc="ranks that share one copy of the model; by default all (FSDP, not HSDP)"
    )
    sequence_parallel: int = setting(
        1,
        change="operational",
        ge=1,
        doc="ranks that share the tokens of each pass, for long contexts; divides num_ranks and the policy's heads",
    )
    gather_once: bool = setting(
        False, change="operational", doc="ranks keep gathered blocks until the backward pass: faster, needs more memory"
    )
    rank_timeout_s: float = setting(
        1800, change="operational", gt=0, doc="deadline of every wait of one rank for the others"
    )
    num_threads: int | None = setting(None, change="operational", ge=1, doc="torch threads; by default torch decides")
    train_timeout_s: float = setting(86400, change="operational", gt=0, doc="deadline of one round's learning")

    @property
    def num_shards(self) -> int:
        """Ranks among which one copy of the model is shared out."""
        return min(self.num_ranks, self.ranks_per_node or self.num_ranks)

    @model_validator(mode="after")
    def _nodes_have_equally_many_ranks(self) -> Self:
        if self.num_ranks % self.num_shards:
            raise ValueError(
                f"got num_ranks {self.num_ranks} and ranks_per_node {self.ranks_per_node}; expected ranks_per_node to "
                "divide num_ranks, as every node holds a whole copy of the model"
            )
        return self

    @model_validator(mode="after")
    def _teams_have_equally_many_ranks(self) -> Self:
        if self.num_ranks % self.sequence_parallel:
            raise ValueError(
                f"got num_ranks {self.num_ranks} and sequence_parallel {self.sequence_parallel}; expected the latter "
                "to divide the former"
            )
        return self

    @model_validator(mode="after")
    def _four_bits_have_one_rank(self) -> Self:
        if self.lora is not None and self.lora.quantize is not None and self.num_ranks > 1:
            raise ValueError(
                f"got lora.quantize {self.lora.quantize} and num_ranks {self.num_ranks}; expected num_ranks 1: weights "
                "in 4 bits are not shared out; leave quantize out, or train on one rank"
            )
        return self

    @model_validator(mode="after")
    def _many_ranks_keep_their_weights(self) -> Self:
        if self.offload == "all" and self.num_ranks > 1:
            raise ValueError(
                f"got offload all and num_ranks {self.num_ranks}; expected optimizer or none: the rows of a model that "
                "ranks share stay where they are"
            )
        return self

    @model_validator(mode="after")
    def _stochastic_rounding_has_something_to_round(self) -> Self:
        if self.publish_rounding == "stochastic" and self.publish_dtype == "float32":
            raise ValueError("publish_rounding: stochastic rounds nothing with publish_dtype: float32; leave one out")
        return self

    @model_validator(mode="after")
    def _adapters_are_published_as_they_are(self) -> Self:
        if self.lora is not None and self.lora.publish == "adapter":
            for name in ("publish_dtype", "publish_rounding"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} has no effect with lora.publish: adapter, which is float32; leave it out")
        return self
