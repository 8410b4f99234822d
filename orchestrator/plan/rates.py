"""How fast hardware does what a round asks for: by an accelerator's data sheet, or as it was measured."""

from dataclasses import asdict, dataclass, fields
from typing import Any

from orchestrator.plan.hardware import Accelerator
from rollout.errors import UsageError

# Shares of the data sheet's figures that well-kept software reaches on matrices of a language model's size.
DECODE_BANDWIDTH_SHARE = 0.7
PREFILL_SHARE = 0.5
LEARN_SHARE = 0.4
SCORE_SHARE = 0.5
_DECODE_STEP_S = 0.002  # scheduling, sampling and kernel launches of a step, however few answers it has
_DISK = 2e9  # bytes/s of a local NVMe disk or a fast shared one


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Seconds and FLOP/s or bytes/s of one engine and of one rank of the learner.

    A decode step takes decode_step_s, and as long as its arithmetic or its reading of weights and cache, whichever is
    longer; each of its answers adds answer_token_s. A learning step takes learn_step_s beside its arithmetic. Reading
    or writing weights takes its bytes over disk. *_round_s are what a stage takes beside all that.
    """

    decode_step_s: float
    answer_token_s: float
    generate_flops: float
    bandwidth: float | None
    learn_step_s: float
    learn_flops: float
    score_flops: float
    disk: float
    learn_round_s: float = 0.0
    evaluate_round_s: float = 0.0
    sync_s: float = 0.0
    judge_answer_s: float = 0.0


def accelerator_rates(one: Accelerator) -> Rates:
    """The rates of one GPU at the shares stated above; a judge's own time is not known, and left out."""
    return Rates(
        decode_step_s=_DECODE_STEP_S,
        answer_token_s=0.0,
        generate_flops=one.peak_flops * PREFILL_SHARE,
        bandwidth=one.bandwidth * DECODE_BANDWIDTH_SHARE,
        learn_step_s=0.0,
        learn_flops=one.peak_flops * LEARN_SHARE,
        score_flops=one.peak_flops * SCORE_SHARE,
        disk=_DISK,
    )


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Rates that were measured, and the lengths that they were measured at; answer_share: of the longest allowed."""

    rates: Rates
    prompt_tokens: float
    answer_share: float

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def parse_profile(found: Any, *, origin: str) -> Profile:
    """The `profile` of what `rondo bench plan --json` or `rondo bench loop --json` printed. Raises UsageError."""
    try:
        told = found["profile"]
        rates = Rates(**{field.name: told["rates"][field.name] for field in fields(Rates)})
        return Profile(rates=rates, prompt_tokens=told["prompt_tokens"], answer_share=told["answer_share"])
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"--profile {origin} holds no profile ({type(error).__name__} {error}); make it with "
            "`rondo bench plan --json > FILE`, or bench loop"
        ) from error
