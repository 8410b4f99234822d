"""Evaluation of a round: held-out answers of the new policy against the baselines', and how far it has moved."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from judge.config import people_of
from judge.types import Purpose, Verdict
from orchestrator.chunks import in_chunks
from orchestrator.config import EvaluationConfig
from orchestrator.journal import Journal
from orchestrator.observer import Observer
from orchestrator.scoreboard.alarm import RoundSummary, alarms
from orchestrator.scoreboard.intervals import paired_difference, prompt_preferences
from orchestrator.scoreboard.measures import Answers, answer_statistics, implicit_accuracy, standing
from orchestrator.stages import Cluster, Judge
from orchestrator.types import Baseline, Interval, RoundRecord, RoundScores, Standing
from orchestrator.winrate import win_rate
from rollout.shards import find_shards, read_groups
from rollout.types import GroupShard, Logps, PolicyRef, Prompt, TokenSequence

JudgeName = Literal["judge", "gold"]


def evaluate(
    journal: Journal, cluster: Cluster, record: RoundRecord, held_out: tuple[Prompt, ...], observer: Observer
) -> RoundScores:
    """Measure the round's policy on the held-out prompts; empty where there are none.

    Held-out completions and verdicts stay under rounds/NNNN/evaluation. The base answers once, twice over: its second
    sample against its first shows what no difference looks like.
    """
    config = journal.run.config_at(record.round_id).evaluation
    if not held_out or record.update is None:
        return RoundScores(baseline=config.baseline)
    with observer.stage(record.round_id, "evaluate"):
        return _Evaluation(journal, cluster, held_out, record, config).of(record.update.policy_out)


@dataclass(frozen=True)
class _Evaluation:
    journal: Journal
    cluster: Cluster
    held_out: tuple[Prompt, ...]
    record: RoundRecord
    config: EvaluationConfig

    def of(self, policy: PolicyRef) -> RoundScores:
        # The base's answers first: in round 0 the engines still hold it.
        base, again = self.answers(0, "base", self.journal.base_policy), None
        if self.record.round_id == 0:
            second = self.answers(0, "base_again", self.journal.base_policy)
            if self.judges and not self.asks_people(self.judges[0]):
                again = win_rate(self.verdicts(self.judges[0], "base_verdicts", second, base))
        ours = self.answers(self.record.round_id, "groups", policy)
        standings = tuple(self.standings(ours, base))
        return self.measured(
            RoundScores(baseline=self.config.baseline, standings=standings, base_win_rate=again), policy, ours, base
        )

    @property
    def judges(self) -> list[JudgeName]:
        """Who is asked; people only where the configuration says so, for their time is dear."""
        people = people_of(self.journal.run.config_at(self.record.round_id).judge)
        names: list[JudgeName] = ["judge"] if people is None or people.evaluate else []
        if self.cluster.gold is not None and self.config.gold is not None:
            names.append("gold")
        return names

    def asks_people(self, judge: JudgeName) -> bool:
        """Whether the judge's time is too dear for what only shows that nothing differs."""
        return judge == "judge" and people_of(self.journal.run.config_at(self.record.round_id).judge) is not None

    def standings(self, ours: list[GroupShard], base: list[GroupShard]) -> list[Standing]:
        """What each judge says against each baseline; in round 0 the previous policy is the base."""
        wanted: list[Baseline] = ["base"]
        if self.config.compare_previous or self.config.baseline == "previous":
            wanted.append("previous")
        found = []
        for name in self.judges:
            for baseline in wanted:
                if baseline == "previous" and self.record.policy_in.version == 0 and self.asks_people(name):
                    continue
                theirs = base if baseline == "base" else self.previous(base)
                verdicts = self.verdicts(name, f"{name}_{baseline}", ours, theirs)
                before = self.verdicts_of_round(self.record.round_id - 1, name, base) if baseline == "base" else None
                found.append(
                    standing(
                        verdicts,
                        before,
                        judge=name,
                        baseline=baseline,
                        look=self.record.round_id + 1,
                        ours=self.read(ours),
                        theirs=self.read(theirs),
                    )
                )
        return found

    def previous(self, base: list[GroupShard]) -> list[GroupShard]:
        """Held-out answers of the policy that the round began with, sampled by now unless its round went unmeasured."""
        version = self.record.policy_in.version
        return base if version == 0 else self.answers(version - 1, "groups", self.record.policy_in)

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

    def verdicts(
        self,
        judge: JudgeName,
        folder: str,
        ours: list[GroupShard],
        theirs: list[GroupShard],
        round_id: int | None = None,
    ) -> list[Verdict]:
        """A judge's verdicts on ours (a) against theirs (b), chunk by chunk; read back where they exist already."""
        asked: Judge | None = self.cluster.judge if judge == "judge" else self.cluster.gold
        assert asked is not None
        where = self.journal.run.round_dir(self.record.round_id if round_id is None else round_id)
        purpose: Purpose = "previous" if folder.endswith("previous") else "held_out"
        return asked.compare(ours, theirs, out_dir=f"{where}/evaluation/{folder}", purpose=purpose)

    def verdicts_of_round(self, round_id: int, judge: JudgeName, base: list[GroupShard]) -> list[Verdict] | None:
        """A judge's verdicts on an earlier round's policy against the base; None where that round has none."""
        if round_id < 0:
            return None
        scores = self.journal.record(round_id).scores
        if scores is None or scores.standing(judge, "base") is None:
            return None
        folder = f"{self.journal.run.round_dir(round_id)}/evaluation/groups"
        theirs = find_shards(self.journal.run.root, folder, GroupShard)
        if len(theirs) != len(base):  # other held-out prompts since
            return None
        return self.verdicts(judge, f"{judge}_base", theirs, base, round_id)

    def measured(
        self, scores: RoundScores, policy: PolicyRef, ours: list[GroupShard], base: list[GroupShard]
    ) -> RoundScores:
        """Add the KL to the base on the policy's own samples, the shape of its answers, and the alarms."""
        answers, baseline = self.read(ours), self.read(base)
        if not answers:
            return scores
        logps = [self.logps(each, policy) for each in (answers, baseline)]
        base_logps = [self.logps(each, self.journal.base_policy) for each in (answers, baseline)]
        lengths = [len(completion.token_ids) for _, completion in baseline]
        statistics = answer_statistics(
            answers,
            logps=logps[0],
            base_logps=base_logps[0],
            base_length=float(np.mean(lengths)) if lengths else None,
        )
        rewards = [_rewards(each, *both) for each, *both in zip((answers, baseline), logps, base_logps, strict=True)]
        scores = replace(scores, answers=statistics)
        if self.judges:
            found = self.verdicts(self.judges[0], f"{self.judges[0]}_base", ours, base)
            scores = replace(scores, implicit_accuracy=implicit_accuracy(found, rewards[0], rewards[1]))
        return replace(scores, alarms=self.alarms(scores, base))

    def alarms(self, scores: RoundScores, base: list[GroupShard]) -> tuple[str, ...]:
        """Why this round looks over-optimised, in words."""
        rounds, round_id = self.config.alarm.rounds, self.record.round_id
        earlier = [(r, self.journal.record(r).scores) for r in range(round_id)]
        history = [_summary(r, found) for r, found in [*earlier, (round_id, scores)] if found is not None]
        return alarms(
            [summary for summary in history if summary is not None],
            rounds=rounds,
            min_growth=self.config.alarm.min_growth,
            judge_change=self.change("judge", base),
            gold_change=self.change("gold", base),
        )

    def change(self, judge: JudgeName, base: list[GroupShard]) -> Interval | None:
        """The paired change of a judge's win rate against the base over the alarm's rounds."""
        if judge not in self.judges:
            return None
        before = self.verdicts_of_round(self.record.round_id - self.config.alarm.rounds, judge, base)
        if before is None:
            return None
        folder = f"{self.journal.run.round_dir(self.record.round_id)}/evaluation/groups"
        ours = find_shards(self.journal.run.root, folder, GroupShard)
        now = self.verdicts(judge, f"{judge}_base", ours, base)
        return paired_difference(prompt_preferences(now), prompt_preferences(before))

    def read(self, shards: list[GroupShard]) -> Answers:
        groups = [group for shard in shards for group in read_groups(self.journal.run.root, shard)]
        return [(group, completion) for group in groups for completion in group.completions]

    def logps(self, answers: Answers, policy: PolicyRef) -> list[Logps]:
        sequences = [
            TokenSequence(prompt_ids=group.prompt_token_ids, completion_ids=completion.token_ids)
            for group, completion in answers
        ]
        return self.cluster.learner.score(sequences, policy=policy)


def _rewards(answers: Answers, logps: list[Logps], base_logps: list[Logps]) -> dict[tuple[str, int], float]:
    return {
        (group.prompt.prompt_id, completion.index): float(ours.astype(np.float64).sum() - base.astype(np.float64).sum())
        for (group, completion), ours, base in zip(answers, logps, base_logps, strict=True)
    }


def _summary(round_id: int, scores: RoundScores) -> RoundSummary | None:
    judge, gold = scores.standing("judge", "base"), scores.standing("gold", "base")
    before, gold_before = scores.standing("judge", "previous"), scores.standing("gold", "previous")
    if judge is None or judge.win_rate is None:
        return None
    return RoundSummary(
        round_id=round_id,
        judge=judge.win_rate,
        gold=gold.win_rate if gold else None,
        judge_previous=before.win_rate if before else None,
        gold_previous=gold_before.win_rate if gold_before else None,
        kl=scores.answers.kl_k3 if scores.answers else None,
        length=scores.answers.response_length if scores.answers else None,
    )
