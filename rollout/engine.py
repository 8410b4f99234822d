"""What a rollout worker asks of an engine, and the arithmetic of lengths that all engines share."""

from pathlib import Path
from typing import Protocol

from transformers import AutoConfig

from rollout.errors import DataError, UsageError
from rollout.types import Completion, LoadReport, Logps, PolicyRef, Sampling, TokenIds, TokenSequence
from rollout.weight_source import WeightSource


class Engine(Protocol):
    """Samples completions and scores tokens under one policy at a time.

    Whatever fails inside an engine, a weight update above all, leaves it without a policy: it then refuses all work
    with InfraError until start() has built it anew. So half-loaded weights never answer a prompt.
    """

    @property
    def policy(self) -> PolicyRef | None:
        """The policy whose weights are in place; None before start, during load, and after a failure."""

    @property
    def context_tokens(self) -> int:
        """Tokens of prompt and completion together that fit."""

    async def start(self, policy: PolicyRef, path: Path) -> None:
        """Bring the engine up with the weights in folder `path`.

        A running engine that holds another policy loads this one; a broken one is built anew. Raises InfraError.
        """

    async def load(self, policy: PolicyRef, path: Path, weights: WeightSource | None = None) -> LoadReport:
        """Put other weights in place; running completions go on under them.

        weights: where whole weights come from, by default the folder `path`. Raises InfraError, IntegrityError.
        """

    async def generate(self, prompt_token_ids: TokenIds, sampling: Sampling, *, key: str) -> tuple[Completion, ...]:
        """Sample sampling.num_completions completions of a prompt, ordered by index; their `text` is empty.

        key: engines that are reproducible derive the seed of each completion from (key, index), others ignore it.
        logps are those of the sampling distribution (temperature and top-p applied); at temperature 0, which is
        greedy, they are taken at temperature 1. Raises DataError `prompt_too_long`, InfraError.
        """

    async def score(self, sequence: TokenSequence) -> Logps:
        """Teacher-forced log-probabilities of the completion's tokens, float32[T] in nats, temperature 1."""

    async def close(self) -> None:
        """Give back memory and threads; the engine can be started again."""


def context_tokens(folder: Path, max_model_len: int | None) -> int:
    """Tokens of prompt and completion together that an engine allows for the policy in `folder`.

    One less than the model has positions: scoring a completion of full length needs the one after it.
    """
    config = AutoConfig.from_pretrained(folder).get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None and max_model_len is None:
        raise UsageError(
            f"config.json in {folder} does not say how long the model's context is; set rollout.max_model_len"
        )
    bounds = [max_model_len, None if positions is None else positions - 1]
    return min(bound for bound in bounds if bound is not None)


def completion_budget(num_prompt_tokens: int, sampling: Sampling, context: int) -> int:
    """Tokens that a completion of this prompt may have. Raises DataError if not even one fits."""
    budget = min(sampling.max_new_tokens, context - num_prompt_tokens)
    if num_prompt_tokens < 1 or budget < 1:
        raise DataError(
            "prompt_too_long" if num_prompt_tokens else "prompt_empty",
            f"{num_prompt_tokens} tokens, expected 1 to {context - 1}",
        )
    return budget
