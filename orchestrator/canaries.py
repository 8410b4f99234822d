"""Canaries: known pairs that the judge is asked among the real ones each round, to notice when it drifts."""

from collections.abc import Sequence

from judge.config import CanaryConfig
from judge.types import Answer, Score
from orchestrator.given import Label, LabelledPair, read_labels, write_given
from orchestrator.journal import Journal
from orchestrator.observer import Observer
from orchestrator.stages import Cluster
from orchestrator.types import CanaryReport, RoundRecord
from rollout.errors import Stopped, UsageError
from rollout.shards import find_shards, hash_json
from rollout.types import GroupShard


def check_canaries(settings: CanaryConfig) -> int:
    """Rows of the canary file that cannot be used, ties among them. Raises UsageError where no pair has a winner."""
    known, unusable = read_labels(settings.path)
    num_ties = sum(pair.label == "tie" for pair in known)
    if num_ties == len(known):
        raise UsageError(
            f"judge.canaries.path {settings.path} has {num_ties} ties and no pair with a winner; "
            "give pairs whose better answer is known"
        )
    return num_ties + sum(unusable.values())


def ask_canaries(journal: Journal, cluster: Cluster, record: RoundRecord) -> CanaryReport | None:
    """The judge's answers on this round's draw of known pairs; None where there are none."""
    config = journal.run.config_at(record.round_id)
    settings = config.judge.canaries
    if settings is None:
        return None
    known, _ = read_labels(settings.path)
    by_id = {pair.group.prompt.prompt_id: pair for pair in known if pair.label != "tie"}
    drawn = sorted(by_id, key=lambda key: hash_json([config.seed, record.round_id, key]))[: settings.num_per_round]
    folder = f"{journal.run.round_dir(record.round_id)}/canaries"
    shards = find_shards(journal.run.root, f"{folder}/groups", GroupShard) or write_given(
        journal.run.root, f"{folder}/groups", [by_id[key].group for key in drawn], round_id=record.round_id
    )
    answers = [answer for shard in shards for answer in cluster.judge.answer(shard, out_dir=f"{folder}/verdicts")]
    return canary_report([by_id[key] for key in drawn if key in by_id], answers, settings)


def canary_report(asked: Sequence[LabelledPair], answers: Sequence[Answer], settings: CanaryConfig) -> CanaryReport:
    """How many known pairs the judge ordered rightly; ties and abstentions are not right, and counted apart."""
    by_prompt: dict[str, list[Answer]] = {}
    for answer in answers:
        by_prompt.setdefault(answer.prompt_id, []).append(answer)
    found = [(pair.label, preferred(by_prompt.get(pair.group.prompt.prompt_id, []))) for pair in asked]
    right = sum(label == verdict for label, verdict in found)
    accuracy = right / len(found) if found else 0.0
    return CanaryReport(
        num_asked=len(found),
        num_right=right,
        num_tied=sum(verdict == "tie" for _, verdict in found),
        num_abstained=sum(verdict is None for _, verdict in found),
        accuracy=accuracy,
        dropped=accuracy < settings.min_accuracy,
    )


def heed_canaries(record: RoundRecord, settings: CanaryConfig | None, observer: Observer) -> None:
    """Warn where the judge failed its canaries. Raises Stopped where the configuration says so."""
    report = record.canaries
    if settings is None or report is None or not report.dropped:
        return
    said = (
        f"round {record.round_id}: the judge ordered {report.num_right} of {report.num_asked} canaries rightly "
        f"({report.num_abstained} abstained, {report.num_tied} tied), below judge.canaries.min_accuracy "
        f"{settings.min_accuracy:g}"
    )
    if settings.on_drop == "stop":
        raise Stopped(f"{said}; mend the judge, or set judge.canaries.on_drop: warn, and run again")
    observer.warn(said)


def preferred(answers: Sequence[Answer]) -> Label | None:
    """What a judge's answers on a pair come to: a, b or tie; None where it abstained on any of them."""
    scores = {answer.index: answer.value for answer in answers if isinstance(answer, Score)}
    if scores:
        first, second = scores.get(0), scores.get(1)
        if first is None or second is None:
            return None
        return "tie" if first == second else "a" if first > second else "b"
    verdict = answers[0] if answers else None
    if verdict is None or isinstance(verdict, Score) or verdict.outcome == "abstain":
        return None
    return "tie" if verdict.outcome == "both_bad" else verdict.outcome
