"""The nouns that the orchestrator produces: what is known about a round, and what its evaluation measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from judge.types import PairShard
from learner.types import LearnerUpdate
from rollout.types import PolicyRef


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its 95% interval, as fractions, over num_prompts held-out prompts."""

    mean: float
    low: float
    high: float
    num_prompts: int


@dataclass(frozen=True, kw_only=True)
class RoundScores:
    """What evaluation measured on held-out prompts after a round's update.

    win_rate is against the baseline, ties one half; base_win_rate is the base against a second sample of itself,
    measured once, in the round that first needs the baseline. KL is to the base on the policy's own samples, in nats
    a token (k1 signed and unbiased, k3 never negative). num_abstained counts comparisons without an answer.
    """

    baseline: str
    win_rate: Interval | None = None
    base_win_rate: Interval | None = None
    num_wins: int = 0
    num_losses: int = 0
    num_ties: int = 0
    num_abstained: int = 0
    kl_k1: float | None = None
    kl_k3: float | None = None
    kl_sequence: float | None = None
    response_length: float | None = None
    truncation_rate: float | None = None


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
    drawn_sha256 that of rounds/NNNN/drawn.json, which lists the ids drawn.
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
    policy_next: PolicyRef | None = None

    @property
    def num_pairs(self) -> int:
        return sum(shard.num_pairs for shard in self.shards or ())

    @property
    def all_rejected(self) -> dict[str, int]:
        """Prompts without a pair and pairs that could not be trained, by reason."""
        mark = "num_rejected_"
        measured = self.update.metrics if self.update else {}
        pairs = {name.removeprefix(mark): int(num) for name, num in measured.items() if name.startswith(mark)}
        return {**self.num_rejected, **pairs}

    @property
    def stage(self) -> str:
        """The stage that this round is in."""
        stages = {"generate": self.shards, "learn": self.update, "evaluate": self.scores}
        return next((name for name, done in stages.items() if done is None), "done")
