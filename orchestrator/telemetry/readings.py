"""From events of a run to values of the metrics in the table."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import get_ident
from typing import Any

from orchestrator.telemetry.sink import Event
from orchestrator.types import RoundRecord, RoundScores

_FAILED = "failed_"
_NO_PROGRESS = frozenset({"said", "attempt", "queue"})  # queues are told of while everybody waits, too
_OF_JUDGES = {
    "requests": "rondo_judge_requests",
    "latency_s": "rondo_judge_request_seconds",
    "prompt_tokens": "rondo_judge_tokens",
    "completion_tokens": "rondo_judge_tokens",
    "tokens": "rondo_judge_tokens",
    "money": "rondo_judge_spend",
    "cache_hits": "rondo_judge_cache_hits",
}
_OF_STEPS = {
    "loss": "rondo_loss",
    "reward_margin": "rondo_reward_margin",
    "reward_accuracy": "rondo_reward_accuracy",
    "kl_k3": "rondo_kl_to_reference",
    "grad_norm": "rondo_grad_norm",
    "tokens_per_s": "rondo_learner_tokens_per_second",
}
_LENGTHS = {"mean": "response_length", "p10": "length_p10", "p50": "length_p50", "p90": "length_p90"}


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A value of one metric: what a gauge shows now, or what a counter goes up by."""

    metric: str
    value: float
    tags: Mapping[str, str] = field(default_factory=dict)


class Readings:
    """Translates events; remembers what rates need, and which stage is shown as active."""

    def __init__(self) -> None:
        self._active: dict[int, str] = {}  # by thread: a round may be made while another one is learnt
        self._tokens: defaultdict[str, float] = defaultdict(float)
        self._seconds: defaultdict[int, dict[str, float]] = defaultdict(dict)
        self._of: dict[str, Callable[[Event], Iterator[Reading]]] = {
            "stage_started": self._stage_started,
            "stage": self._stage,
            "queue": self._queue,
            "generated": self._generated,
            "sync": self._sync,
            "judged": self._judged,
            "step": self._step,
            "said": self._said,
            "round_done": self._round_done,
        }

    def of(self, event: Event) -> list[Reading]:
        """The readings of one event; most kinds also show that the run moves."""
        read = self._of.get(event["kind"])
        found = list(read(event)) if read else []
        if event["kind"] not in _NO_PROGRESS:
            found.append(Reading(metric="rondo_progress_timestamp_seconds", value=event["time"]))
        return found

    def _stage_started(self, event: Event) -> Iterator[Reading]:
        if event["round"] is not None:
            yield Reading(metric="rondo_round", value=event["round"])
        yield from self._activate(event["stage"])

    def _activate(self, stage: str) -> Iterator[Reading]:
        before = self._active.pop(get_ident(), "")
        if stage:
            self._active[get_ident()] = stage
        if before and before not in self._active.values():
            yield Reading(metric="rondo_stage_active", value=0.0, tags={"stage": before})
        if stage:
            yield Reading(metric="rondo_stage_active", value=1.0, tags={"stage": stage})

    def _stage(self, event: Event) -> Iterator[Reading]:
        stage, seconds = event["stage"], event["seconds"]
        yield Reading(metric="rondo_stage_seconds", value=seconds, tags={"stage": stage})
        yield from self._activate(event.get("outer", ""))
        if event["round"] is not None:
            spent = self._seconds[event["round"]]
            spent[stage] = spent.get(stage, 0.0) + seconds
        if stage == "generate":
            for engine, num in self._tokens.items():
                rate = num / seconds if seconds else 0.0
                yield Reading(metric="rondo_engine_tokens_per_second", value=rate, tags={"engine": engine})
            self._tokens = defaultdict(float, dict.fromkeys(self._tokens, 0.0))

    def _queue(self, event: Event) -> Iterator[Reading]:
        yield Reading(metric="rondo_queue_depth", value=event["depth"], tags={"queue": event["queue"]})

    def _generated(self, event: Event) -> Iterator[Reading]:
        tags = {"engine": str(event.get("engine", 0))}
        yield Reading(metric="rondo_generated_tokens", value=event["num_tokens"], tags=tags)
        yield Reading(metric="rondo_generated_groups", value=event["num_groups"], tags=tags)
        if event["stage"] == "generate":
            self._tokens[tags["engine"]] += event["num_tokens"]

    def _sync(self, event: Event) -> Iterator[Reading]:
        tags = {"engine": str(event["engine"])}
        yield Reading(metric="rondo_sync_seconds", value=event["load_s"], tags=tags)
        yield Reading(metric="rondo_sync_bytes", value=event["size_bytes"], tags=tags)

    def _judged(self, event: Event) -> Iterator[Reading]:
        tags = {"judge": event["judge"]}
        for key, value in event.items():
            if key in _OF_JUDGES:
                yield Reading(metric=_OF_JUDGES[key], value=value, tags=tags)
            elif key.startswith(_FAILED):
                failure = {**tags, "failure": key.removeprefix(_FAILED)}
                yield Reading(metric="rondo_judge_failures", value=value, tags=failure)
        if event.get("requests"):
            num_failed = sum(value for key, value in event.items() if key.startswith(_FAILED))
            yield Reading(metric="rondo_judge_failed_share", value=num_failed / event["requests"], tags=tags)

    def _step(self, event: Event) -> Iterator[Reading]:
        if event["stage"] != "learn":
            return  # a base policy in the making has no pairs
        yield Reading(metric="rondo_steps", value=1.0)
        for key, metric in _OF_STEPS.items():
            if key in event:
                yield Reading(metric=metric, value=event[key])

    def _said(self, event: Event) -> Iterator[Reading]:
        if event["level"] == "warning":
            yield Reading(metric="rondo_warnings", value=1.0)

    def _round_done(self, event: Event) -> Iterator[Reading]:
        record: RoundRecord = event["record"]
        policy = record.policy_next or record.policy_in
        yield Reading(metric="rondo_policy_version", value=policy.version)
        yield Reading(metric="rondo_policy_lag", value=record.policy_in.version - record.policy_sampled.version)
        yield from self._pairs(record)
        if record.canaries is not None:
            yield Reading(metric="rondo_canary_accuracy", value=record.canaries.accuracy)
        if record.probe is not None:
            yield Reading(metric="rondo_probe_difference", value=record.probe.mean_difference)
        published = record.update.metrics.get("published_share") if record.update and record.update.num_steps else None
        if published is not None:
            yield Reading(metric="rondo_published_share", value=published)
        if record.scores is not None:
            yield from _of_scores(record.scores)
        yield Reading(metric="rondo_rolled_back", value=float(record.rolled_back))

    def _pairs(self, record: RoundRecord) -> Iterator[Reading]:
        yield Reading(metric="rondo_pairs", value=record.num_pairs)
        for reason, num in record.all_rejected.items():
            yield Reading(metric="rondo_rejected_prompts", value=num, tags={"reason": reason})
        for reason, num in record.num_abstained.items():
            yield Reading(metric="rondo_abstained_answers", value=num, tags={"reason": reason})
        share = sum(record.num_rejected.values()) / record.num_prompts if record.num_prompts else 0.0
        yield Reading(metric="rondo_rejected_share", value=share)
        spent = self._seconds.pop(record.round_id, {})
        if {"generate", "learn"} <= spent.keys():  # else a part of the round was done before this process began
            yield Reading(metric="rondo_pairs_per_second", value=record.num_pairs / max(sum(spent.values()), 1e-9))


def _of_scores(scores: RoundScores) -> Iterator[Reading]:
    yield Reading(metric="rondo_alarms", value=len(scores.alarms))
    for standing in scores.standings:
        if standing.win_rate is None:
            continue
        for bound in ("mean", "low", "high"):
            tags = {"judge": standing.judge, "baseline": standing.baseline, "bound": bound}
            yield Reading(metric="rondo_win_rate", value=getattr(standing.win_rate, bound), tags=tags)
    answers: Any = scores.answers
    if answers is None:
        return
    yield Reading(metric="rondo_kl_to_base", value=answers.kl_k3)
    yield Reading(metric="rondo_truncation_rate", value=answers.truncation_rate)
    for quantile, name in _LENGTHS.items():
        yield Reading(metric="rondo_response_length", value=getattr(answers, name), tags={"quantile": quantile})
    if answers.length_growth is not None:
        yield Reading(metric="rondo_response_length_growth", value=answers.length_growth)
