"""The nouns that a judge produces: scores, verdicts, preference pairs and their shards."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from rollout.types import Logps, Message, TokenIds, TokenSignature

Outcome = Literal["a", "b", "tie", "both_bad", "abstain"]
Purpose = Literal["pairs", "held_out", "previous"]  # what is judged: training pairs, or held-out answers against whom
PairOutcome = Literal["chosen", "tie", "both_bad"]
Source = Literal["function", "reward_model", "preference_model", "verifier", "llm", "human", "ensemble"]
# Reasons of abstentions that another judge may answer: this judge could not be asked, or people came to no answer.
FAILED_OVER = frozenset({"budget_spent", "endpoint_failed", "deadline", "no_majority", "all_skipped"})


@dataclass(frozen=True, kw_only=True)
class Score:
    """A pointwise judge's answer on completion `index`.

    value None is an abstention: reason is what it is counted under, evidence its raw detail.
    """

    prompt_id: str
    index: int
    value: float | None
    judge_id: str
    source: Source
    reason: str = ""
    evidence: bytes = b""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A judge's answer on completions a against b of one prompt (indices).

    p_a in [0, 1] or None where the judge gave no probability; consistent says whether both orders agreed, None where
    they were not both asked; evidence is raw and stored as bytes; reason is what an abstention is counted under.
    """

    prompt_id: str
    a: int
    b: int
    outcome: Outcome
    p_a: float | None
    judge_id: str
    source: Source
    consistent: bool | None = None
    reason: str = ""
    evidence: bytes = b""


Answer = Score | Verdict


@dataclass(frozen=True, kw_only=True)
class VerdictShard:
    """A durable Arrow file of every answer of a judge on one chunk, abstentions too, and its manifest, written last.

    judged holds the sha256 of each group shard that was judged, so that answers never serve other completions.
    """

    path: str
    chunk_id: int
    num_answers: int
    sha256: str
    schema_version: int
    round_id: int
    judge_id: str
    judged: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class PreferencePair:
    """One training row.

    pair_id is a hash of the pair's place (run, round, prompt, slot), content_hash of its token ids.
    prompt_ids int32[P], chosen_ids int32[C], rejected_ids int32[R]; the logps are per token, as sampled.
    margin is in the units of the judge; p_chosen is None unless the judge gave a probability.
    """

    pair_id: str
    content_hash: str
    round_id: int
    prompt_id: str
    prompt: tuple[Message, ...]
    chosen: str | None
    rejected: str | None
    prompt_ids: TokenIds
    chosen_ids: TokenIds | None
    rejected_ids: TokenIds | None
    chosen_logps: Logps | None
    rejected_logps: Logps | None
    outcome: PairOutcome
    score_chosen: float | None
    score_rejected: float | None
    margin: float | None
    p_chosen: float | None
    policy_version: int
    judge_id: str
    source: Source
    chosen_truncated: bool
    rejected_truncated: bool


@dataclass(frozen=True, kw_only=True)
class PairShard:
    """A durable Arrow file of preference pairs and its manifest, written last.

    Every prompt of the chunk stands in exactly one place: it has rows, or its id is under a reason in `rejected`.
    num_pairs counts the rows that a paired loss can train (outcome chosen, both sides there), num_unpaired the others
    (ties that are kept): the file has num_pairs + num_unpaired rows. num_abstained counts completions or comparisons
    on which the judge gave no answer, by reason; num_filtered candidate pairs that were dropped from prompts that have
    rows all the same, by reason.
    """

    path: str
    chunk_id: int
    num_pairs: int
    num_prompts: int
    sha256: str
    schema_version: int
    round_id: int
    policy_version: int
    signature: TokenSignature
    rejected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    num_abstained: Mapping[str, int] = field(default_factory=dict)
    num_unpaired: int = 0
    num_filtered: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class JudgeReport:
    """What a judge has done since it was last asked: counts (requests, tokens, money, cache_hits, ...) and notices.

    A notice is a line that a person should read, such as that a budget is spent.
    """

    counts: Mapping[str, float] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
