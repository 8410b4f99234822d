"""Settings of reward models and of preference models."""

from typing import Literal, Self

from pydantic import model_validator

from judge.backend_config import Backend
from rollout.types import setting


class RewardModelBackend(Backend):
    """A sequence-classification model that scores a conversation: in this process, or at a vLLM pooling server."""

    kind: Literal["reward_model"] = setting("reward_model", change="per_round", doc="a model that scores an answer")
    model: str = setting(
        change="per_round", doc="folder or hub name; with `endpoint` the name there, and its tokenizer"
    )
    endpoint: str | None = setting(
        None, change="operational", doc="base URL of vLLM's pooling server; none: loaded in the judge's process"
    )
    api_key_env: str = setting(
        "OPENAI_API_KEY",
        change="operational",
        doc="environment variable that holds the endpoint's key, if it needs one",
    )
    tokenizer: str | None = setting(None, change="per_round", doc="folder or hub name, where it is not the model's own")
    dtype: Literal["float32", "bfloat16", "float16"] = setting(
        "float32", change="per_round", doc="type of the model's body; the head is always float32"
    )
    label: int | None = setting(
        None, change="per_round", ge=0, doc="which label is the score, where the head has more than one"
    )
    max_length: int | None = setting(
        None, change="per_round", ge=2, doc="tokens; longer rows abstain as too_long; none: the model's context"
    )
    batch_size: int = setting(32, change="operational", ge=1, doc="rows a forward pass, or a request")
    device: str | None = setting(None, change="operational", doc="torch device; none: a GPU where there is one")
    concurrency: int = setting(16, change="operational", ge=1, doc="requests in flight, with an endpoint")
    max_attempts: int = setting(6, change="operational", ge=1, doc="times that a failed request is sent in all")


class PreferenceModelBackend(Backend):
    """A model that reads a prompt with two answers at once and says which is better (PairRM, 2306.02561)."""

    kind: Literal["preference_model"] = setting(
        "preference_model", change="per_round", doc="a model that reads two answers at once"
    )
    model: str = setting(change="per_round", doc="folder or hub name of a sequence-classification model")
    template: str = setting(
        "<|source|>{prompt}<|candidate1|>{a}<|candidate2|>{b}",
        change="per_round",
        doc="the joint text; {prompt}, {a} and {b} stand once each",
    )
    dtype: Literal["float32", "bfloat16", "float16"] = setting(
        "float32", change="per_round", doc="type of the model's body; the head is always float32"
    )
    label: int | None = setting(
        None, change="per_round", ge=0, doc="which label is the logit of the first answer, where there are several"
    )
    max_length: int | None = setting(
        None, change="per_round", ge=2, doc="tokens; longer rows abstain as too_long; none: the model's context"
    )
    batch_size: int = setting(32, change="operational", ge=1, doc="rows a forward pass")
    device: str | None = setting(None, change="operational", doc="torch device; none: a GPU where there is one")

    @model_validator(mode="after")
    def _template_has_its_places(self) -> Self:
        for place in ("{prompt}", "{a}", "{b}"):
            if self.template.count(place) != 1:
                raise ValueError(f"template holds {place} {self.template.count(place)} times, expected once")
        return self
