"""The nouns that the orchestrator produces: what is known about a round, and what its evaluation measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from judge.types import PairShard
from learner.types import LearnerUpdate
from rollout.types import PolicyRef

Baseline = Literal["base", "previous"]


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95% interval, as fractions, over num_prompts held-out prompts."""

    mean: float
    low: float
    high: float
    num_prompts: int


@dataclass(frozen=True, kw_only=True)
class Standing:
    """What one judge says of a round's policy against one baseline, on held-out prompts; ties one half.

    judge: the training judge, or the frozen gold judge. anytime is the interval that holds over all rounds looked at
    together; change is the paired difference to the round before, against the same baseline. length_controlled is the
    win rate at equal lengths. swap_consistency: verdicts that the order of the answers left alone, where both orders
    were asked.
    """

    judge: Literal["judge", "gold"]
    baseline: Baseline
    judge_id: str
    win_rate: Interval | None
    anytime: Interval | None
    change: Interval | None
    length_controlled: Interval | None
    num_wins: int
    num_losses: int
    num_ties: int
    num_abstained: int
    swap_consistency: float | None

    @property
    def num_answered(self) -> int:
        return self.num_wins + self.num_losses + self.num_ties


@dataclass(frozen=True, kw_only=True)
class AnswerStatistics:
    """The shape of a policy's held-out answers; lengths in tokens, padding never counted.

    KL is to the base on the policy's own samples, in nats: k1 signed and unbiased, k3 never negative, each a token and
    a sequence. distinct_n and self_bleu are over words.
    """

    kl_k1: float
    kl_k3: float
    kl_sequence: float
    kl_sequence_k3: float
    response_length: float
    length_p10: float
    length_p50: float
    length_p90: float
    length_growth: float | None
    truncation_rate: float
    distinct_1: float | None
    distinct_2: float | None
    self_bleu: float | None


@dataclass(frozen=True, kw_only=True)
class RoundScores:
    """What evaluation measured on held-out prompts after a round's update; empty without held-out prompts.

    base_win_rate is the base against a second sample of itself, measured in round 0. implicit_accuracy is how often
    the implicit reward prefers the answer that the headline judge preferred. alarms are reasons in words.
    """

    baseline: Baseline
    standings: tuple[Standing, ...] = ()
    base_win_rate: Interval | None = None
    answers: AnswerStatistics | None = None
    implicit_accuracy: Interval | None = None
    alarms: tuple[str, ...] = ()

    def standing(self, judge: Literal["judge", "gold"], baseline: Baseline | None = None) -> Standing | None:
        """What a judge says against a baseline, by default the configured one."""
        wanted = (judge, baseline or self.baseline)
        return next((one for one in self.standings if (one.judge, one.baseline) == wanted), None)

    @property
    def headline(self) -> Literal["judge", "gold"]:
        """Whose figures stand first: the training judge's, or the gold judge's where people are not asked for them."""
        return "judge" if any(one.judge == "judge" for one in self.standings) else "gold"

    @property
    def win_rate(self) -> Interval | None:
        """The headline judge's win rate against the configured baseline."""
        standing = self.standing(self.headline)
        return standing.win_rate if standing else None


@dataclass(frozen=True, kw_only=True)
class ProbeReport:
    """How far engine and learner are apart on the same tokens: mean and largest difference of log-probabilities."""

    policy_version: int
    num_completions: int
    mean_difference: float
    max_difference: float


@dataclass(frozen=True, kw_only=True)
class CanaryReport:
    """How the judge ordered the known pairs of a round; dropped: below the accuracy asked for."""

    num_asked: int
    num_right: int
    num_tied: int
    num_abstained: int
    accuracy: float
    dropped: bool


@dataclass(frozen=True, kw_only=True)
class RoundRecord:
    """The journal entry of one round. A field that is None belongs to a stage that has not been committed yet.

    settings is the hash of the per-round settings in force, prompt_set that of all training prompts, and
    drawn_sha256 that of rounds/NNNN/drawn.json, which lists the ids drawn. policy_next is the update's policy, or
    policy_in again where the gate rolled back; gate_reasons are the rules that were broken.
    """

    round_id: int
    settings: str
    prompt_set: str
    drawn_sha256: str
    num_prompts: int
    policy_sampled: PolicyRef
    policy_in: PolicyRef
    shards: tuple[PairShard, ...] | None = None
    num_rejected: Mapping[str, int] = field(default_factory=dict)
    num_abstained: Mapping[str, int] = field(default_factory=dict)
    canaries: CanaryReport | None = None
    probe: ProbeReport | None = None
    update: LearnerUpdate | None = None
    scores: RoundScores | None = None
    gate_reasons: tuple[str, ...] = ()
    policy_next: PolicyRef | None = None

    @property
    def policy_out(self) -> PolicyRef:
        """The policy that the round's update published, or the one it began with while there is none."""
        return self.update.policy_out if self.update else self.policy_in

    @property
    def num_pairs(self) -> int:
        return sum(shard.num_pairs for shard in self.shards or ())

    @property
    def num_unpaired(self) -> int:
        """Rows beside the pairs: ties that are kept, and answers by themselves."""
        return sum(shard.num_unpaired for shard in self.shards or ())

    @property
    def all_rejected(self) -> dict[str, int]:
        """Prompts without a pair and pairs that could not be trained, by reason."""
        mark = "num_rejected_"
        measured = self.update.metrics if self.update else {}
        pairs = {name.removeprefix(mark): int(num) for name, num in measured.items() if name.startswith(mark)}
        return {**self.num_rejected, **pairs}

    @property
    def rolled_back(self) -> bool:
        """Whether the gate went on from the policy that the round began with, though there was an update."""
        return bool(self.update and self.update.num_steps and self.policy_next == self.policy_in)

    @property
    def stage(self) -> str:
        """The stage that this round is in."""
        stages = {"generate": self.shards, "learn": self.update, "evaluate": self.scores}
        return next((name for name, done in stages.items() if done is None), "done")
