"""Runtime truth: engine and learner score the same tokens before each round's learning."""

import numpy as np

from orchestrator.config import ProbeConfig
from orchestrator.journal import Journal
from orchestrator.stages import Cluster
from orchestrator.types import ProbeReport, RoundRecord
from rollout.errors import RondoError
from rollout.shards import find_shards, read_groups
from rollout.types import GroupShard, TokenSequence


class ProbeError(RondoError):
    """Engine and learner disagree about the policy's log-probabilities: training would be on nonsense."""


def probe(journal: Journal, cluster: Cluster, record: RoundRecord, config: ProbeConfig) -> ProbeReport | None:
    """Compare engine and learner on completions of this round; None where there is nothing to compare.

    Raises ProbeError above the configured bound, or where a value is not finite. With a policy lag the engine holds
    another policy than the learner, so it is brought to the learner's first: the tokens' origin does not matter.
    """
    sequences = _sample(journal, record.round_id, config.num_completions)
    if not sequences:
        return None
    by_engine = cluster.rollout.score(sequences, policy=record.policy_in)
    by_learner = cluster.learner.score(sequences, policy=record.policy_in)
    return check_probe(
        np.concatenate(by_engine),
        np.concatenate(by_learner),
        version=record.policy_in.version,
        num_completions=len(sequences),
        bound=config.max_mean_difference,
    )


def check_probe(
    engine: np.ndarray, learner: np.ndarray, *, version: int, num_completions: int, bound: float
) -> ProbeReport:
    """The report on two arrays of log-probabilities of the same tokens. Raises ProbeError above the bound."""
    difference = np.abs(engine.astype(np.float64) - learner.astype(np.float64))
    mean = float(difference.mean())
    if not mean <= bound:  # not the same as mean > bound: NaN must stop the run, too
        raise ProbeError(
            f"engine and learner disagree on policy v{version}: mean difference of log-probabilities {mean:.4f} nats "
            f"a token over {num_completions} completions, expected at most {bound}; check that both load the same "
            "weights, dtype and rope settings, or raise probe.max_mean_difference if this is known to be rounding"
        )
    return ProbeReport(
        policy_version=version,
        num_completions=num_completions,
        mean_difference=mean,
        max_difference=float(difference.max()),
    )


def _sample(journal: Journal, round_id: int, num: int) -> list[TokenSequence]:
    """The first completion of each of the round's first groups."""
    sequences: list[TokenSequence] = []
    for shard in find_shards(journal.run.root, f"{journal.run.round_dir(round_id)}/groups", GroupShard):
        if len(sequences) >= num:
            break
        for group in read_groups(journal.run.root, shard):
            completion = group.completions[0]
            if len(completion.token_ids):
                sequences.append(TokenSequence(prompt_ids=group.prompt_token_ids, completion_ids=completion.token_ids))
    return sequences[:num]
