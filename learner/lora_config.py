"""The `lora:` part of the `learner:` section: what of a policy is trained, and how that is published."""

from typing import Literal

from pydantic import field_validator

from rollout.types import Settings, setting

MAX_ADAPTER_RANK = 512  # what vLLM has room for


class LoraConfig(Settings):
    """Low-rank adapters beside frozen weights (Hu et al., "LoRA", arXiv:2106.09685)."""

    rank: int = setting(16, change="identity", ge=1, le=MAX_ADAPTER_RANK, doc="rank of the adapter")
    alpha: int = setting(32, change="identity", ge=1, doc="the adapter's output is multiplied by alpha / rank")
    dropout: float = setting(
        0.0, change="identity", doc="0 only: policy and reference are compared on equal terms, and runs repeat"
    )
    targets: Literal["all-linear"] | tuple[str, ...] = setting(
        "all-linear",
        change="identity",
        doc="names of the linear layers that get an adapter, for instance [q_proj, v_proj]; all-linear: every one but "
        "the output head",
    )
    publish: Literal["merged", "adapter"] = setting(
        "merged",
        change="per_round",
        doc="what a round publishes: the whole policy with the adapter merged into it, or the adapter alone in "
        "float32, which engines load beside the base",
    )
    quantize: Literal["nf4"] | None = setting(
        None,
        change="identity",
        doc="nf4: the learner computes with a 4-bit copy of the base (QLoRA, needs bitsandbytes); the adapter is "
        "published on the base itself",
    )

    @field_validator("dropout")
    @classmethod
    def _no_dropout(cls, dropout: float) -> float:
        if dropout:
            raise ValueError("expected 0: policy and reference are compared on equal terms; leave it out")
        return dropout

    @field_validator("targets")
    @classmethod
    def _some_targets(cls, targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not targets or (len(set(targets)) < len(targets) and not isinstance(targets, str)):
            raise ValueError("expected all-linear, or a list of different names of linear layers")
        return targets
