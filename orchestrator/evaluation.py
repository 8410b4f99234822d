"""Evaluation of a round: held-out answers of the new policy against the baseline's, and how far it has moved."""

from dataclasses import dataclass, replace

import numpy as np

from judge.types import Verdict
from orchestrator.chunks import in_chunks
from orchestrator.journal import Journal
from orchestrator.observer import Observer
from orchestrator.stages import Cluster
from orchestrator.types import RoundRecord, RoundScores
from orchestrator.winrate import win_rate
from rollout.shards import read_groups
from rollout.types import Completion, CompletionGroup, GroupShard, PolicyRef, Prompt, TokenSequence


def evaluate(
    journal: Journal, cluster: Cluster, record: RoundRecord, held_out: tuple[Prompt, ...], observer: Observer
) -> RoundScores:
    """Measure the round's policy on the held-out prompts; all None where there are none.

    Held-out completions and verdicts stay under rounds/NNNN/evaluation. The base answers once, twice over: its second
    sample against its first shows what no difference looks like.
    """
    baseline = journal.run.config_at(record.round_id).evaluation.baseline
    if not held_out or record.update is None:
        return RoundScores(baseline=baseline)
    with observer.stage(record.round_id, "evaluate"):
        return _Evaluation(journal, cluster, held_out).of(record, record.update.policy_out, baseline)


@dataclass(frozen=True)
class _Evaluation:
    journal: Journal
    cluster: Cluster
    held_out: tuple[Prompt, ...]

    def of(self, record: RoundRecord, policy: PolicyRef, baseline: str) -> RoundScores:
        # The base's answers first: in round 0 the engines still hold it.
        base_policy = self.journal.base_policy
        theirs, base = self.answers(0, "base", base_policy), None
        if record.round_id == 0:
            again = self.answers(0, "base_again", base_policy)
            base = win_rate(self.compare(again, theirs, 0, "base_verdicts"))
        elif baseline == "previous":
            theirs = self.answers(record.round_id - 1, "groups", record.policy_in)
        ours = self.answers(record.round_id, "groups", policy)
        verdicts = self.compare(ours, theirs, record.round_id, "verdicts")
        outcomes = [verdict.outcome for verdict in verdicts]
        scores = RoundScores(
            baseline=baseline,
            win_rate=win_rate(verdicts),
            base_win_rate=base,
            num_wins=outcomes.count("a"),
            num_losses=outcomes.count("b"),
            num_ties=outcomes.count("tie") + outcomes.count("both_bad"),
            num_abstained=outcomes.count("abstain"),
        )
        return self.with_distance(scores, policy, ours)

    def answers(self, round_id: int, name: str, policy: PolicyRef) -> list[GroupShard]:
        """Held-out answers of a policy in chunk order, sampled unless they exist already."""
        config = self.journal.run.config_at(round_id)
        chunks = in_chunks(
            self.held_out,
            config.rollout.prompts_per_shard,
            round_id=round_id,
            shard_dir=f"{self.journal.run.round_dir(round_id)}/evaluation/{name}",
        )
        sampling = replace(config.rollout.sampling, num_completions=config.evaluation.num_completions)
        shards = self.cluster.rollout.generate(chunks, policy=policy, sampling=sampling)
        return sorted(shards, key=lambda shard: shard.chunk_id)

    def compare(self, ours: list[GroupShard], theirs: list[GroupShard], round_id: int, name: str) -> list[Verdict]:
        """Verdicts on ours (a) against theirs (b), chunk by chunk."""
        out_dir = f"{self.journal.run.round_dir(round_id)}/evaluation/{name}"
        pairs = zip(ours, theirs, strict=True)
        return [v for a, b in pairs for v in self.cluster.judge.compare(a, b, out_dir=out_dir)]

    def with_distance(self, scores: RoundScores, policy: PolicyRef, shards: list[GroupShard]) -> RoundScores:
        """Add the KL to the base on the policy's own samples, and the shape of its answers; no padding is counted."""
        groups = [group for shard in shards for group in read_groups(self.journal.run.root, shard)]
        answers = [(group, completion) for group in groups for completion in group.completions]
        if not answers:
            return scores
        sequences = [_sequence(group, completion) for group, completion in answers]
        ours = self.cluster.learner.score(sequences, policy=policy)
        base = self.cluster.learner.score(sequences, policy=self.journal.base_policy)
        log_ratio = np.concatenate(base).astype(np.float64) - np.concatenate(ours).astype(np.float64)
        lengths = np.array([len(completion.token_ids) for _, completion in answers])
        return replace(
            scores,
            # John Schulman's estimators with r = base / policy: k1 = -log r, k3 = r - 1 - log r.
            kl_k1=float(-log_ratio.mean()),
            kl_k3=float((np.expm1(log_ratio) - log_ratio).mean()),
            kl_sequence=float(-log_ratio.sum() / len(answers)),
            response_length=float(lengths.mean()),
            truncation_rate=float(np.mean([completion.finish_reason == "length" for _, completion in answers])),
        )


def _sequence(group: CompletionGroup, completion: Completion) -> TokenSequence:
    return TokenSequence(prompt_ids=group.prompt_token_ids, completion_ids=completion.token_ids)
