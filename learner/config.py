"""The `learner:` section of the configuration."""

from typing import Annotated, Literal, Self

from annotated_types import Ge, Lt
from pydantic import model_validator

from learner.objective_config import ObjectiveConfig
from rollout.types import setting

Schedule = Literal["constant", "per_round", "whole_run"]
AdamBeta = Annotated[float, Ge(0), Lt(1)]


class LearnerConfig(ObjectiveConfig):
    """How a round's preference pairs become the next policy."""

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
        None, change="per_round", ge=2, doc="tokens of prompt and answer; longer pairs are counted, never cut"
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
    device: Literal["auto", "cpu", "cuda"] = setting("auto", change="operational", doc="where the learner computes")
    cpus: float = setting(1, change="operational", gt=0, doc="CPUs that Ray reserves for the learner")
    gpus: float | None = setting(None, change="operational", ge=0, doc="GPUs; by default 1 where the cluster has any")
    num_threads: int | None = setting(None, change="operational", ge=1, doc="torch threads; by default torch decides")
    train_timeout_s: float = setting(86400, change="operational", gt=0, doc="deadline of one round's learning")

    @model_validator(mode="after")
    def _stochastic_rounding_has_something_to_round(self) -> Self:
        if self.publish_rounding == "stochastic" and self.publish_dtype == "float32":
            raise ValueError("publish_rounding: stochastic rounds nothing with publish_dtype: float32; leave one out")
        return self
