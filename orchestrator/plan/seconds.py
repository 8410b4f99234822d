"""Seconds of each stage of a round, out of what it asks for and the rates of the hardware."""

import math
from dataclasses import dataclass

from learner.config import LearnerConfig
from orchestrator.config import RunConfig
from orchestrator.plan.memory import adapter_parameters
from orchestrator.plan.model_shape import BYTES, ModelShape
from orchestrator.plan.rates import Rates
from orchestrator.plan.workload import Workload

_STATE_BYTES = 12  # masters and two moments in fp32, of each weight that is trained


@dataclass(frozen=True, kw_only=True)
class StageSeconds:
    """Of a round after the first, which also answers the held-out prompts by the base. judge: None where not known."""

    generate: float
    judge: float | None
    learn: float
    sync: float
    evaluate: float

    def whole(self, *, overlaps: bool) -> float:
        """A round from start to end; with a policy lag pairs are made while the learner learns."""
        making = self.generate + (self.judge or 0.0)
        return (max(making, self.learn) if overlaps else making + self.learn) + self.sync + self.evaluate


def stage_seconds(
    shape: ModelShape, config: RunConfig, work: Workload, rates: Rates, *, num_cached: float = math.inf
) -> StageSeconds:
    """num_cached: positions that the cache of one engine has room for."""
    measure = (shape, config, work, rates)
    return StageSeconds(
        generate=generate_seconds(
            *measure, num_prompts=work.num_prompts, num_answers=work.num_answers, num_cached=num_cached
        ),
        judge=rates.judge_answer_s * work.num_answers if rates.judge_answer_s else None,
        learn=learn_seconds(*measure),
        sync=rates.sync_s + published_bytes(shape, config) / rates.disk,
        evaluate=_evaluate_seconds(*measure, num_cached=num_cached),
    )


def generate_seconds(
    shape: ModelShape,
    config: RunConfig,
    work: Workload,
    rates: Rates,
    *,
    num_prompts: float,
    num_answers: float,
    num_cached: float,
) -> float:
    """Of answers over all engines side by side; a prompt is computed once for all answers to it."""
    if not num_answers:
        return 0.0
    settings = config.rollout
    each = num_answers / settings.num_engines
    fits = max(1.0, num_cached / (work.prompt_tokens + work.answer_tokens))
    batch = min(each, float(settings.max_num_seqs), fits)
    num_steps = each * work.answer_tokens / batch
    degree, width = settings.tensor_parallel_size, BYTES[config.policy.dtype]
    arithmetic = shape.forward_flops(batch, context=work.context) / (rates.generate_flops * degree)
    reading = 0.0
    if rates.bandwidth is not None:
        read = shape.num_parameters * width + batch * work.context * shape.cache_bytes(width)
        reading = read / (rates.bandwidth * degree)
    step_s = rates.decode_step_s + batch * rates.answer_token_s + max(arithmetic, reading)
    prompts = num_prompts / settings.num_engines
    prefill = shape.forward_flops(prompts * work.prompt_tokens, context=work.prompt_tokens / 2)
    return num_steps * step_s + prefill / (rates.generate_flops * degree)


def learn_seconds(shape: ModelShape, config: RunConfig, work: Workload, rates: Rates) -> float:
    """The steps, the reference's log-probabilities, and writing policy and state."""
    settings = config.learner
    flops, num_pairs = step_flops(shape, settings, work), work.num_pairs * settings.num_epochs
    num_steps = math.ceil(work.num_pairs / settings.batch_pairs) * settings.num_epochs
    learning = flops * num_pairs / (rates.learn_flops * settings.num_ranks) + num_steps * rates.learn_step_s
    reference = 0.0 if settings.reference == "none" else forward_pair_flops(shape, work) * work.num_pairs
    scoring = reference / (rates.score_flops * settings.num_ranks)
    return learning + scoring + writing_bytes(shape, config) / rates.disk + rates.learn_round_s


def step_flops(shape: ModelShape, settings: LearnerConfig, work: Workload) -> float:
    """Of one pair forward and backward: three times the forward pass, four where blocks are computed twice."""
    times = 4 if settings.activation_checkpointing == "blocks" else 3
    return times * forward_pair_flops(shape, work)


def forward_pair_flops(shape: ModelShape, work: Workload) -> float:
    """Of one pair, its prompt once."""
    return shape.forward_flops(work.pair_tokens, context=work.context)


def evaluation_flops(shape: ModelShape, work: Workload) -> float:
    """Of scoring the answers of policy and base under policy and base."""
    tokens = 4 * work.num_held_out_answers * (work.prompt_tokens + work.answer_tokens)
    return shape.forward_flops(tokens, context=work.context)


def writing_bytes(shape: ModelShape, config: RunConfig) -> float:
    """What a round of learning leaves on the disk."""
    lora = config.learner.lora
    trained = shape.num_parameters if lora is None else adapter_parameters(shape, lora.rank)
    return _STATE_BYTES * trained + published_bytes(shape, config)


def published_bytes(shape: ModelShape, config: RunConfig) -> float:
    """What engines read of a new version."""
    lora = config.learner.lora
    if lora is not None and lora.publish == "adapter":
        return 4.0 * adapter_parameters(shape, lora.rank)
    return float(BYTES[config.policy.dtype] * shape.num_parameters)


def _evaluate_seconds(
    shape: ModelShape, config: RunConfig, work: Workload, rates: Rates, *, num_cached: float
) -> float:
    num = work.num_held_out_answers
    if not num:
        return 0.0
    generating = generate_seconds(
        shape, config, work, rates, num_prompts=work.num_held_out, num_answers=num, num_cached=num_cached
    )
    scoring = evaluation_flops(shape, work) / (rates.score_flops * config.learner.num_ranks)
    return generating + scoring + num * rates.judge_answer_s + rates.evaluate_round_s
