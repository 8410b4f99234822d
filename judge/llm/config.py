"""Settings of a language-model judge: what is asked, how it is sent, and what it may cost."""

from typing import Any, Literal, Self

from pydantic import model_validator

from judge.backend_config import Backend
from rollout.types import Settings, setting


class BudgetConfig(Settings):
    """What the judge may spend in this run; reserved before a request is sent. None is no limit."""

    requests: int | None = setting(None, change="operational", gt=0, doc="HTTP requests, retries included")
    tokens: int | None = setting(None, change="operational", gt=0, doc="prompt and completion tokens")
    money: float | None = setting(
        None, change="operational", gt=0.0, allow_inf_nan=False, doc="in the price's currency"
    )
    price_input: float = setting(
        0.0, change="operational", ge=0.0, allow_inf_nan=False, doc="price of a million prompt tokens"
    )
    price_output: float = setting(
        0.0, change="operational", ge=0.0, allow_inf_nan=False, doc="price of a million completion tokens"
    )

    @model_validator(mode="after")
    def _money_has_a_price(self) -> Self:
        if self.money is not None and not (self.price_input or self.price_output):
            raise ValueError("budget.money needs price_input or price_output, the prices of a million tokens")
        return self


class LlmBackend(Backend):
    """A language model behind an OpenAI-compatible endpoint: a hosted one, or vLLM's own server."""

    kind: Literal["llm"] = setting("llm", change="per_round", doc="a language model at an OpenAI-compatible endpoint")
    model: str = setting(change="per_round", doc="the model's name at the endpoint")
    endpoint: str | None = setting(
        None, change="operational", doc="base URL, for instance http://127.0.0.1:8000/v1; none: OpenAI's own"
    )
    api_key_env: str | None = setting(
        None,
        change="operational",
        doc="environment variable of the key; none: OPENAI_API_KEY, which a server of this machine may do without",
    )
    api_key_file: str | None = setting(
        None, change="operational", doc="file that holds the key, in place of the variable"
    )
    rubric: str = setting(
        "helpfulness",
        change="per_round",
        doc="helpfulness, harmlessness, constitution, or the path of a template of yours",
    )
    style: Literal["pairwise", "pointwise"] = setting(
        "pairwise", change="per_round", doc="pairwise compares two answers in both orders, pointwise grades 1 to 10"
    )
    method: Literal["logprobs", "json"] = setting(
        "logprobs",
        change="per_round",
        doc="logprobs reads one token's probabilities; json asks for a verdict by a schema, with reasoning",
    )
    num_samples: int = setting(1, change="per_round", ge=1, doc="verdicts averaged for each order, with method: json")
    temperature: float = setting(0.0, change="per_round", ge=0.0, le=2.0, doc="the judge's temperature")
    max_tokens: int = setting(1024, change="per_round", ge=1, doc="longest verdict, with method: json")
    max_answer_chars: int = setting(
        2_000_000, change="per_round", ge=1, doc="longer answers are not sent; counted as answer_too_long"
    )
    max_reasks: int = setting(
        2, change="per_round", ge=0, doc="times that an unusable or contradictory verdict is asked for again"
    )
    extra_body: dict[str, Any] = setting(
        {}, change="per_round", doc="further fields of the request; they win, null drops one"
    )
    concurrency: int = setting(64, change="operational", ge=1, doc="requests in flight, of all actors")
    tokens_per_minute: int | None = setting(None, change="operational", ge=1, doc="of the endpoint; none: no limit")
    requests_per_minute: int | None = setting(None, change="operational", ge=1, doc="of the endpoint; none: no limit")
    timeout_s: float = setting(
        60.0, change="operational", gt=0.0, allow_inf_nan=False, doc="seconds that one request may take"
    )
    max_attempts: int = setting(6, change="operational", ge=1, doc="times that a failed request is sent in all")
    max_backoff_s: float = setting(
        30.0, change="operational", gt=0.0, allow_inf_nan=False, doc="longest pause between two"
    )
    stage_timeout_s: float = setting(
        3600.0, change="operational", gt=0.0, allow_inf_nan=False, doc="seconds for all verdicts of one chunk"
    )
    budget: BudgetConfig = setting(BudgetConfig(), change="operational", doc="what it may spend in this run")

    @model_validator(mode="after")
    def _grades_are_read_by_a_schema(self) -> Self:
        if self.style == "pointwise" and self.method == "logprobs":
            raise ValueError("style: pointwise needs method: json; 10 may be two tokens, and 1 then begins it")
        return self

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.method == "logprobs" and self.num_samples != 1:
            raise ValueError(
                f"num_samples is {self.num_samples} with method: logprobs, which reads one; use method: json"
            )
        if self.num_samples > 1 and self.temperature == 0.0:
            raise ValueError(
                f"num_samples is {self.num_samples} at temperature 0: all would be alike; raise temperature"
            )
        return self
