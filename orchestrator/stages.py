"""What the loop asks of a cluster: three stages, each behind a small interface. Ray implements them in cluster.py."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from judge.types import Answer, PairShard, Purpose, Verdict
from learner.types import LearnerUpdate, StepMetrics
from orchestrator.config import RunConfig
from rollout.types import GroupShard, Logps, PolicyRef, PromptChunk, Sampling, TokenSequence

OnStep = Callable[[StepMetrics], None]


class Rollout(Protocol):
    """Engines that sample from the current policy."""

    def load(self, policy: PolicyRef) -> None:
        """Bring the engines to this policy, enough of them to go on; at once where it is loaded already."""

    def generate(self, chunks: Sequence[PromptChunk], *, policy: PolicyRef, sampling: Sampling) -> Iterator[GroupShard]:
        """Durable shards of completion groups in the order in which they finish; bounded in flight."""

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        """Teacher-forced log-probabilities of each completion's tokens, as the engine computes them."""


class Judge(Protocol):
    """Judges that turn completions into preference pairs."""

    def build(self, groups: Iterable[GroupShard], *, round_id: int, num_chunks: int) -> tuple[PairShard, ...]:
        """Judge a round's num_chunks shards while they arrive; their pair shards in the order of their chunks."""

    def compare(
        self,
        candidates: Sequence[GroupShard],
        baselines: Sequence[GroupShard],
        *,
        out_dir: str,
        purpose: Purpose = "held_out",
    ) -> list[Verdict]:
        """Verdicts on the candidates' completions (a) against the baselines' (b), by prompt and index."""

    def answer(self, shard: GroupShard, *, out_dir: str) -> list[Answer]:
        """The judge's answers on completions that become no pairs, such as canaries."""


class Learner(Protocol):
    """The learner that trains the policy."""

    def train(
        self, *, round_id: int, shards: Sequence[PairShard], policy_in: PolicyRef, on_step: OnStep
    ) -> LearnerUpdate:
        """One round of learning; its policy and state are durable once this returns."""

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        """Teacher-forced log-probabilities of each completion's tokens, as the learner computes them."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The three stages, the gold judge where there is one, and how they take new per-round settings."""

    rollout: Rollout
    judge: Judge
    learner: Learner
    gold: Judge | None = None
    configure: Callable[[RunConfig], None] = field(default=lambda config: None)
