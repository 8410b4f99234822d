"""The table of all metrics: what Rondo exports, and what its dashboard and alerts read from Ray and the labelling page.

Ray exports a metric under the prefix `ray_`, and a counter with the suffix `_total`. Every metric of Rondo's own has
the tag `run`, the name of the run directory.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["gauge", "counter"]


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One row: tags are those beside `run`, meaning is what an operator reads."""

    name: str
    kind: Kind
    unit: str
    tags: tuple[str, ...] = ()
    meaning: str

    @property
    def exported(self) -> str:
        """The name in Prometheus."""
        return f"ray_{self.name}" + ("_total" if self.kind == "counter" else "")


def _gauge(name: str, unit: str, meaning: str, *tags: str) -> Metric:
    return Metric(name=f"rondo_{name}", kind="gauge", unit=unit, tags=tags, meaning=meaning)


def _counter(name: str, unit: str, meaning: str, *tags: str) -> Metric:
    return Metric(name=f"rondo_{name}", kind="counter", unit=unit, tags=tags, meaning=meaning)


METRICS: tuple[Metric, ...] = (
    # Where the run stands
    _gauge("round", "round", "the round that the run is in, from 0"),
    _gauge("stage_active", "0 or 1", "whether the run is in this stage", "stage"),
    _gauge("stage_seconds", "seconds", "what the stage took when it last finished, stages inside it left out", "stage"),
    _gauge("progress_timestamp_seconds", "unix seconds", "when the run last moved: a shard, a step, a stage"),
    _gauge("queue_depth", "shards", "shards that wait for an engine, are generated, or are being judged", "queue"),
    _gauge("policy_version", "version", "the policy that the newest finished round hands on"),
    _gauge("policy_lag", "versions", "learner's policy less the one that sampled the newest finished round"),
    _counter("warnings", "warnings", "warnings of the run, retries of shards and rounds among them"),
    # Generation and weight sync
    _counter("generated_tokens", "tokens", "completion tokens, held-out answers included", "engine"),
    _counter("generated_groups", "prompts", "prompts answered, held-out ones included", "engine"),
    _gauge("engine_tokens_per_second", "tokens/s", "over the newest finished stage of generation", "engine"),
    _gauge("sync_seconds", "seconds", "the newest change of weights", "engine"),
    _gauge("sync_bytes", "bytes", "what that change of weights read", "engine"),
    # Judging
    _counter("judge_requests", "requests", "calls of a judge's endpoint", "judge"),
    _counter("judge_request_seconds", "seconds", "sum of the latencies of these calls", "judge"),
    _counter("judge_failures", "requests", "calls that failed, by how", "judge", "failure"),
    _gauge("judge_failed_share", "fraction", "of the calls since the report before", "judge"),
    _counter("judge_tokens", "tokens", "tokens sent to and answered by a judge", "judge"),
    _counter("judge_spend", "money", "in the currency of the configured prices", "judge"),
    _counter("judge_cache_hits", "answers", "answers that were paid for before", "judge"),
    _counter("rejected_prompts", "prompts", "prompts of finished rounds without a pair, by reason", "reason"),
    _counter("abstained_answers", "answers", "questions that the judge did not answer, by reason", "reason"),
    _gauge("rejected_share", "fraction", "of the prompts of the newest finished round"),
    _gauge("canary_accuracy", "fraction", "known pairs of the newest round that the judge got right"),
    # Learning
    _counter("pairs", "pairs", "pairs of finished rounds"),
    _gauge("pairs_per_second", "pairs/s", "of the newest finished round, from its first stage to its last"),
    _counter("steps", "steps", "optimizer steps"),
    _gauge("loss", "nats", "of the newest optimizer step"),
    _gauge("reward_margin", "nats", "chosen less rejected implicit reward, newest step"),
    _gauge("reward_accuracy", "fraction", "pairs whose chosen answer has the larger implicit reward, newest step"),
    _gauge("kl_to_reference", "nats/token", "estimator k3 over the pairs' answers, newest step"),
    _gauge("grad_norm", "1", "before clipping, newest step"),
    _gauge("learner_tokens_per_second", "tokens/s", "of the newest optimizer step"),
    _gauge("published_share", "fraction", "of the newest update that survived publication"),
    _gauge("probe_difference", "nats/token", "engine against learner on the same tokens, newest round"),
    # Evaluation of the newest finished round on held-out prompts
    _gauge("win_rate", "fraction", "against a baseline; bound: mean, low or high (95%)", "judge", "baseline", "bound"),
    _gauge("kl_to_base", "nats/token", "estimator k3 on the policy's own answers"),
    _gauge("response_length", "tokens", "of answers; quantile is mean, p10, p50 or p90", "quantile"),
    _gauge("response_length_growth", "ratio", "mean length over the base's"),
    _gauge("truncation_rate", "fraction", "answers that were cut off"),
    _gauge("alarms", "alarms", "reasons for the over-optimisation alarm"),
    _gauge("rolled_back", "0 or 1", "whether the gate went back to the policy before"),
)

# Ray's own reporter has these for every node and GPU while its dashboard agent runs.
FROM_RAY = frozenset({"ray_node_gram_used", "ray_node_gram_available", "ray_node_gpus_utilization"})

# The labelling page's own /metrics, scraped apart.
FROM_LABELLING = frozenset(
    {"rondo_backlog_pairs", "rondo_leases_active", "rondo_round_deadline_seconds", "rondo_annotators"}
)
