"""Rates out of runs: what each stage took, and what explains it best."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from orchestrator.config import RunConfig
from orchestrator.plan.model_shape import ModelShape, parse_shape
from orchestrator.plan.rates import Profile, Rates
from orchestrator.plan.seconds import evaluation_flops, forward_pair_flops, published_bytes, step_flops, writing_bytes
from orchestrator.plan.workload import Workload
from orchestrator.status import STAGES, open_journal, read_metrics, stage_seconds
from rollout.errors import UsageError
from rollout.shards import find_shards, read_groups
from rollout.types import GroupShard

_NONE = 1e18  # FLOP/s or bytes/s of what took no time that could be seen


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Medians over the rounds after the first, in seconds; sampling is what generating took within the evaluation.

    round_s holds each of those rounds as a whole.
    """

    shape: ModelShape
    config: RunConfig
    work: Workload
    stages: dict[str, float]
    step_s: float
    num_steps: float
    sampling_s: float
    round_s: tuple[float, ...]


def measure(root: Path) -> Measured:
    """Read what a run with two rounds or more has measured. Raises UsageError for one with fewer."""
    journal = open_journal(root)
    config, records, lines = journal.run.config, journal.records()[1:], read_metrics(root)
    if not records or any(record.stage != "done" for record in records):
        raise UsageError(f"{root} has not finished two rounds; the first one warms up, so others are measured")
    rounds = [record.round_id for record in records]
    shards = [s for r in rounds for s in find_shards(root, f"{journal.run.round_dir(r)}/groups", GroupShard)]
    groups = [group for shard in shards for group in read_groups(root, shard)]
    held_out = [s.win_rate.num_prompts if s and s.win_rate else 0 for s in (record.scores for record in records)]
    work = Workload(
        num_prompts=config.prompts.num_per_round,
        num_completions=config.rollout.num_completions,
        prompt_tokens=fmean(len(group.prompt_token_ids) for group in groups),
        answer_tokens=fmean(len(one.token_ids) for group in groups for one in group.completions),
        num_held_out=max(held_out),
        num_held_out_completions=config.evaluation.num_completions,
        pairs_per_prompt=fmean(record.num_pairs for record in records) / config.prompts.num_per_round,
    )
    seconds = stage_seconds(lines)
    return Measured(
        shape=parse_shape(_model_config(root)),
        config=config,
        work=work,
        stages={stage: median(seconds[round_id][stage] for round_id in rounds) for stage in STAGES},
        step_s=median(step for round_id in rounds for step in _steps(lines, round_id)),
        num_steps=fmean(record.update.num_steps for record in records if record.update),
        sampling_s=median(_sampling(lines, round_id) for round_id in rounds),
        round_s=tuple(sum(seconds[round_id].values()) for round_id in rounds),
    )


def fit_profile(runs: Sequence[Measured]) -> Profile:
    """Rates that explain these runs best, by least squares of relative errors with nothing below zero.

    Policies of two sizes tell what grows with the policy from what does not; of one, all of it is taken to grow.
    """
    answer_token_s, decode_step_s, generate = _explained(
        [row for run in runs for row in _generation(run)], [s for run in runs for s in _generation_seconds(run)]
    )
    learn_step_s, learn = _explained(
        [
            [1.0, run.work.num_pairs / run.num_steps * step_flops(run.shape, run.config.learner, run.work)]
            for run in runs
        ],
        [run.step_s for run in runs],
    )
    judge_answer_s = fmean(run.stages["judge"] / run.work.num_answers for run in runs)
    evaluate_round_s, score = _explained(
        [[1.0, evaluation_flops(run.shape, run.work)] for run in runs],
        [run.stages["evaluate"] - run.sampling_s - run.work.num_held_out_answers * judge_answer_s for run in runs],
    )
    beside = []
    for run in runs:
        reference = forward_pair_flops(run.shape, run.work) * run.work.num_pairs * score
        beside.append(run.stages["learn"] - run.num_steps * run.step_s - reference)
    learn_round_s, writing = _explained([[1.0, writing_bytes(run.shape, run.config)] for run in runs], beside)
    return Profile(
        rates=Rates(
            decode_step_s=decode_step_s,
            answer_token_s=answer_token_s,
            generate_flops=_rate(generate),
            bandwidth=None,
            learn_step_s=learn_step_s,
            learn_flops=_rate(learn),
            score_flops=_rate(score),
            disk=_rate(writing),
            learn_round_s=learn_round_s,
            evaluate_round_s=evaluate_round_s,
            sync_s=fmean(max(0.0, run.stages["sync"] - _read_s(run, writing)) for run in runs),
            judge_answer_s=judge_answer_s,
        ),
        prompt_tokens=fmean(run.work.prompt_tokens for run in runs),
        answer_share=fmean(run.work.answer_tokens / run.config.rollout.max_new_tokens for run in runs),
    )


def _generation(run: Measured) -> list[list[float]]:
    """Answers' tokens, decode steps and arithmetic of an engine's share of a round, and of an evaluation."""
    rows = []
    work, engines = run.work, run.config.rollout.num_engines
    for num_prompts, num_answers in (
        (work.num_prompts, work.num_answers),
        (work.num_held_out, work.num_held_out_answers),
    ):
        each, prompts = num_answers / engines, num_prompts / engines
        if each:
            tokens = each * work.answer_tokens
            flops = run.shape.forward_flops(tokens, context=run.work.context)
            flops += run.shape.forward_flops(prompts * run.work.prompt_tokens, context=run.work.prompt_tokens / 2)
            rows.append([tokens, tokens / min(each, run.config.rollout.max_num_seqs), flops])
    return rows


def _generation_seconds(run: Measured) -> list[float]:
    return [run.stages["generate"], *([run.sampling_s] if run.work.num_held_out_answers else [])]


def _explained(rows: Sequence[Sequence[float]], seconds: Sequence[float]) -> list[float]:
    """Seconds of one of each column; with fewer rows than columns the first columns are taken to cost nothing."""
    from scipy.optimize import nnls

    matrix = np.asarray(rows, dtype=np.float64)
    wanted = np.maximum(np.asarray(seconds, dtype=np.float64), 1e-9)
    unknown = min(matrix.shape)
    relative = matrix[:, matrix.shape[1] - unknown :] / wanted[:, None]
    scale = np.maximum(relative.max(axis=0), 1e-300)
    found, _ = nnls(relative / scale, np.ones(len(wanted)))
    return [0.0] * (matrix.shape[1] - unknown) + [float(each) for each in found / scale]


def _read_s(run: Measured, each: float) -> float:
    return published_bytes(run.shape, run.config) * each


def _rate(seconds_each: float) -> float:
    return 1 / seconds_each if seconds_each > 1 / _NONE else _NONE


def _steps(lines: Sequence[dict[str, Any]], round_id: int) -> list[float]:
    """Seconds from each of a round's steps to the next."""
    times = [
        line["time"] for line in lines if (line["kind"], line["stage"], line["round"]) == ("step", "learn", round_id)
    ]
    return list(np.diff(times)) if len(times) > 1 else []


def _sampling(lines: Sequence[dict[str, Any]], round_id: int) -> float:
    """Seconds in which held-out answers were generated."""
    here = [line for line in lines if line["kind"] == "generated" and line["round"] == round_id]
    made = [line for line in here if line["stage"] == "evaluate"]
    return max(line["time"] for line in made) - min(line["time"] - line["seconds"] for line in made) if made else 0.0


def _model_config(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "policies/v0000/config.json").read_text(encoding="utf-8"))
    return found
