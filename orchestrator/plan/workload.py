"""What a round of a run asks for, in prompts and tokens."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from orchestrator.config import RunConfig
from orchestrator.preflight import make_encoder
from rollout.errors import DataError, UsageError
from rollout.sources import load_prompts

ASSUMED_PROMPT_TOKENS = 256.0
_SAMPLED_PROMPTS = 200


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A round; prompt_tokens and answer_tokens are means, an answer's end included."""

    num_prompts: int
    num_completions: int
    prompt_tokens: float
    answer_tokens: float
    num_held_out: int
    num_held_out_completions: int
    pairs_per_prompt: float = 1.0

    @property
    def num_answers(self) -> int:
        return self.num_prompts * self.num_completions

    @property
    def num_held_out_answers(self) -> int:
        return self.num_held_out * self.num_held_out_completions

    @property
    def num_pairs(self) -> float:
        return self.num_prompts * self.pairs_per_prompt

    @property
    def pair_tokens(self) -> float:
        """Tokens of a pair for the learner, which computes its prompt once."""
        return self.prompt_tokens + 2 * self.answer_tokens

    @property
    def context(self) -> float:
        """Positions that a token of an answer attends to, in the middle of it."""
        return self.prompt_tokens + self.answer_tokens / 2


def workload(
    config: RunConfig, *, num_held_out: int, prompt_tokens: float, answer_tokens: float | None = None
) -> Workload:
    """A round of this run; without answer_tokens every answer is as long as it may be."""
    longest = float(config.rollout.max_new_tokens)
    return Workload(
        num_prompts=config.prompts.num_per_round,
        num_completions=config.rollout.num_completions,
        prompt_tokens=prompt_tokens,
        answer_tokens=longest if answer_tokens is None else min(answer_tokens, longest),
        num_held_out=num_held_out,
        num_held_out_completions=config.evaluation.num_completions,
    )


def measured_prompt_tokens(config: RunConfig) -> float | None:
    """The mean length of the first prompts under the policy's own template; None where its tokenizer is not here."""
    if config.policy.path is None or not Path(config.policy.path).is_dir():
        return None
    try:
        prompts = load_prompts(config.prompts.path, split=config.prompts.split, column=config.prompts.column).prompts
        encoder = make_encoder(config, Path(config.policy.path))
    except (UsageError, OSError, ValueError):
        return None
    lengths = []
    for prompt in prompts[:_SAMPLED_PROMPTS]:
        try:
            lengths.append(len(encoder.encode(prompt)))
        except DataError:
            continue
    return fmean(lengths) if lengths else None


def num_held_out(config: RunConfig) -> int:
    """Held-out prompts of an evaluation; the file is read only where the configuration does not say how many."""
    evaluation = config.evaluation
    if not evaluation.prompts:
        return 0
    if evaluation.num_prompts is not None:
        return evaluation.num_prompts
    return len(load_prompts(evaluation.prompts, split=evaluation.split, column=evaluation.column).prompts)
