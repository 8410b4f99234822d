"""`rondo bench plan`: a profile out of two short runs, and its prediction of a third one held against that run."""

import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from orchestrator.bench import Row, report
from orchestrator.bench_loop import rondo_run
from orchestrator.bench_rollout import bench_config
from orchestrator.config import RunConfig
from orchestrator.plan.measured import Measured, fit_profile, measure
from orchestrator.plan.rates import Profile
from orchestrator.plan.seconds import StageSeconds, stage_seconds
from orchestrator.status import STAGES

_NUM_ROUNDS = 4
_ERROR = 0.2
# The run that is predicted is none of those that were measured: another policy, other prompts, other lengths.
_PROFILED: tuple[dict[str, int], ...] = (
    {"hidden_size": 384, "num_layers": 2, "num_prompts": 96, "num_tokens": 40, "num_held_out": 48},
    {"hidden_size": 768, "num_layers": 4, "num_prompts": 32, "num_tokens": 64, "num_held_out": 64},
)
_PREDICTED = {"hidden_size": 576, "num_layers": 3, "num_prompts": 64, "num_tokens": 56, "num_held_out": 32}


def bench_plan() -> dict[str, Any]:
    """Rows of predicted and measured seconds, and the profile that predicted them."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        profiled = [_measured(root / f"profiled-{number}", size) for number, size in enumerate(_PROFILED)]
        real = _measured(root / "predicted", _PREDICTED)
    profile = fit_profile(profiled)
    return {**report("plan", prediction_rows(profile, real)), "profile": profile.plain()}


def prediction_rows(profile: Profile, real: Measured) -> list[Row]:
    """What the profile says of a run, beside what the run took; answers are as long as they came out."""
    found = stage_seconds(real.shape, real.config, real.work, profile.rates)
    whole = found.whole(overlaps=False)
    rows = [_row(f"{stage}, predicted", _stage(found, stage), (real.stages[stage],)) for stage in STAGES]
    rows.append(_row("round, predicted", whole, real.round_s))
    error = abs(whole / median(real.round_s) - 1)
    rows.append(Row(name="error of a round", value=error, unit="share", better="lower", floor=_ERROR))
    return rows


def _stage(found: StageSeconds, stage: str) -> float:
    return float(getattr(found, stage) or 0.0)


def _row(name: str, predicted: float, real: tuple[float, ...]) -> Row:
    ratios = [predicted / max(seconds, 1e-9) for seconds in real]
    return Row(
        name=name,
        value=predicted,
        unit="s",
        better="lower",
        peer="measured",
        peer_value=median(real),
        ratio=median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
    )


def _measured(root: Path, size: dict[str, int]) -> Measured:
    rondo_run(sized_config(**size), root)
    return measure(root)


def sized_config(
    *, hidden_size: int, num_layers: int, num_prompts: int, num_tokens: int, num_held_out: int
) -> RunConfig:
    """A policy of random weights, whose answers run to their full length."""
    scratch = {
        "corpus": "orchestrator.quickstart:demonstrations",
        "hidden_size": hidden_size,
        "intermediate_size": hidden_size * 8 // 3 // 32 * 32,
        "num_layers": num_layers,
    }
    return bench_config(
        num_rounds=_NUM_ROUNDS,
        policy={"scratch": scratch, "dtype": "float32"},
        prompts={"path": "orchestrator.quickstart:prompts", "num_per_round": num_prompts},
        rollout={"num_completions": 4, "max_new_tokens": num_tokens},
        learner={"learning_rate": 1e-5, "batch_pairs": 16},
        evaluation={"prompts": "orchestrator.quickstart:held_out", "num_prompts": num_held_out},
    )
