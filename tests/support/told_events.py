"""What happens in one made-up round, as sinks hear of it."""

from typing import Any

from judge.types import PairShard
from learner.types import LearnerUpdate
from orchestrator.types import (
    AnswerStatistics,
    CanaryReport,
    Interval,
    ProbeReport,
    RoundRecord,
    RoundScores,
    Standing,
)
from rollout.types import PolicyRef, TokenSignature

START = 1_000_000.0


def policy(version: int) -> PolicyRef:
    return PolicyRef(version=version, path=f"policies/v{version:04d}", sha256=f"{version:064x}")


def told_record(round_id: int = 0, *, rolled_back: bool = False) -> RoundRecord:
    """A finished round: 10 prompts, 8 pairs, 2 steps, measured against the base."""
    before, after = policy(round_id), policy(round_id + 1)
    shard = PairShard(
        path="x.arrow",
        chunk_id=0,
        num_pairs=8,
        num_prompts=10,
        sha256="0" * 64,
        schema_version=1,
        round_id=round_id,
        policy_version=round_id,
        signature=TokenSignature(tokenizer="t", chat_template="c", template_kwargs="k", stop_ids=(1,)),
    )
    return RoundRecord(
        round_id=round_id,
        settings="s",
        prompt_set="p",
        drawn_sha256="d",
        num_prompts=10,
        policy_sampled=before,
        policy_in=before,
        shards=(shard,),
        num_rejected={"tie": 2},
        num_abstained={"too_few": 1},
        canaries=CanaryReport(num_asked=10, num_right=9, num_tied=0, num_abstained=1, accuracy=0.9, dropped=False),
        probe=ProbeReport(policy_version=round_id, num_completions=4, mean_difference=0.01, max_difference=0.1),
        update=LearnerUpdate(policy_out=after, num_steps=2, num_pairs=8, metrics={"published_share": 0.75}),
        scores=told_scores(),
        policy_next=before if rolled_back else after,
    )


def told_scores() -> RoundScores:
    rate = Interval(mean=0.7, low=0.6, high=0.8, num_prompts=50)
    standing = Standing(
        judge="judge",
        baseline="base",
        judge_id="function:f",
        win_rate=rate,
        anytime=None,
        change=None,
        length_controlled=None,
        num_wins=35,
        num_losses=15,
        num_ties=0,
        num_abstained=0,
        swap_consistency=None,
    )
    answers = AnswerStatistics(
        kl_k1=0.1,
        kl_k3=0.2,
        kl_sequence=3.0,
        kl_sequence_k3=6.0,
        response_length=30.0,
        length_p10=10.0,
        length_p50=28.0,
        length_p90=60.0,
        length_growth=1.2,
        truncation_rate=0.05,
        distinct_1=None,
        distinct_2=None,
        self_bleu=None,
    )
    return RoundScores(baseline="base", standings=(standing,), answers=answers, alarms=("the judge alone rises",))


def told_events(round_id: int = 0, *, resumed: bool = False) -> list[dict[str, Any]]:
    """100 seconds: 40 of generation on two engines while the judge works, 50 of learning, 10 of evaluation."""
    zero = START + 100 * round_id

    def event(kind: str, at: float, stage: str, **values: Any) -> dict[str, Any]:
        return {"kind": kind, "round": round_id, "stage": stage, **values, "time": zero + at}

    def stage(name: str, start: float, end: float, own: float | None = None, outer: str = "run") -> dict[str, Any]:
        seconds = end - start if own is None else own
        return event("stage", end, name, seconds=seconds, outer=outer, started=zero + start)

    figures = {"loss": 0.6, "reward_margin": 0.1, "reward_accuracy": 0.75, "kl_k3": 0.02, "grad_norm": 1.5}
    shard = {"num_groups": 5, "num_tokens": 2000}
    counts = {"requests": 50.0, "latency_s": 25.0, "prompt_tokens": 900.0, "completion_tokens": 100.0, "money": 0.5}
    done = {"submitted": zero + 20, "finished": zero + 30, "num_pairs": 4}
    return [
        event("stage_started", 0, "generate"),
        event("queue", 0, "generate", queue="waiting", depth=2),
        event("generated", 20, "generate", engine=0, chunk_id=0, seconds=20.0, **shard),
        event("progress", 20, "generate", num=5, note=""),
        event("generated", 40, "generate", engine=1, chunk_id=1, seconds=30.0, **shard),
        event("shard_judged", 40, "generate", judge="judge", chunk_id=0, **done),
        event("judged", 40, "generate", judge="judge", cache_hits=3.0, failed_timeout=5.0, **counts),
        stage("generate", 0, 40),
        event("stage_started", 40, "learn"),
        event("said", 41, "learn", level="warning", text="a shard is judged again"),
        event("step", 60, "learn", step=1, num_steps=2, tokens_per_s=500.0, num_pairs=4, **figures),
        event("step", 90, "learn", step=2, num_steps=2, tokens_per_s=500.0, num_pairs=4, **figures),
        stage("learn", 40, 90),
        event("stage_started", 90, "evaluate"),
        event("sync", 91, "sync", engine=0, version=1, load_s=0.5, size_bytes=1000),
        stage("evaluate", 90, 100),
        event("round_done", 100, "run", record=told_record(round_id), resumed=resumed),
    ]
