"""Settings of `rondo reward-model fit`."""

from typing import Literal

from learner.config import AdamBeta
from rollout.types import Settings, setting


class RewardModelConfig(Settings):
    """How a reward model is fitted to preference pairs."""

    num_epochs: int = setting(1, change="per_round", ge=1, doc="passes over the pairs; reward models overfit early")
    learning_rate: float = setting(1e-5, change="per_round", gt=0, doc="AdamW's learning rate at its peak")
    batch_pairs: int = setting(64, change="per_round", ge=1, doc="pairs an optimizer step")
    schedule: Literal["cosine", "linear"] = setting("cosine", change="per_round", doc="how the rate falls to zero")
    warmup_share: float = setting(0.05, change="per_round", ge=0, lt=1, doc="share of the steps with a rising rate")
    weight_decay: float = setting(
        0.0, change="per_round", ge=0, doc="decoupled weight decay of matrices, never of norms"
    )
    adam_betas: tuple[AdamBeta, AdamBeta] = setting((0.9, 0.999), change="per_round", doc="AdamW's moment decays")
    max_grad_norm: float = setting(1.0, change="per_round", gt=0, doc="gradients are clipped to this global norm")
    freeze_embeddings: bool = setting(
        False,
        change="per_round",
        doc="leave the input embeddings as they are: few pairs teach words that they happen to hold, and no others",
    )
    centre_coefficient: float = setting(
        0.01, change="per_round", ge=0, doc="weight of (r_chosen + r_rejected)^2, which keeps rewards around zero"
    )
    held_out_share: float = setting(
        0.1, change="per_round", ge=0, lt=1, doc="share of the pairs, whole prompts of them, that is only measured on"
    )
    seed: int = setting(17, change="per_round", doc="decides the split, the order of the pairs and the new head")
    max_pairs: int | None = setting(None, change="per_round", ge=2, doc="use no more pairs than this, drawn by seed")
    max_length: int | None = setting(
        None, change="per_round", ge=2, doc="tokens of a dialogue; longer pairs are counted, never cut"
    )
    dtype: Literal["float32", "bfloat16"] = setting(
        "float32", change="per_round", doc="dtype of the saved body; the head is saved in float32"
    )
    compute_dtype: Literal["auto", "float32", "bfloat16"] = setting(
        "auto", change="per_round", doc="dtype of matrix products; auto: bfloat16 where the hardware multiplies it"
    )
    device: Literal["auto", "cpu", "cuda"] = setting("auto", change="operational", doc="where it computes")
    num_threads: int | None = setting(None, change="operational", ge=1, doc="torch threads; by default torch decides")
    max_tokens_per_microbatch: int = setting(
        16384, change="operational", ge=1, doc="padded tokens of one forward and backward pass; bounds memory"
    )
