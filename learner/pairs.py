"""From preference pairs to training rows: what cannot be trained is counted by reason."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from judge.types import PairShard, PreferencePair
from learner.batches import num_tokens
from rollout.errors import UsageError
from rollout.types import Logps, TokenSequence, TokenSignature


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenPair:
    """Both sides of a preference as tokens; content_hash is that of its token ids."""

    pair_id: str
    content_hash: str
    chosen: TokenSequence
    rejected: TokenSequence

    @property
    def length(self) -> int:
        return max(num_tokens(self.chosen), num_tokens(self.rejected))


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingPair:
    """A pair with the reference's log-probabilities: float32[C] of the chosen, float32[R] of the rejected answer."""

    pair: TokenPair
    ref_chosen_logps: Logps
    ref_rejected_logps: Logps


def trainable(pairs: Iterable[PreferencePair], *, max_length: int | None) -> tuple[list[TokenPair], Mapping[str, int]]:
    """The pairs that a paired loss can learn from, and the number of the others by reason.

    Reasons: pair_unpaired (a tie, or one side missing) and pair_too_long (either side with its prompt is longer
    than max_length; never cut, because a cut answer is not the one that was judged).
    """
    kept: list[TokenPair] = []
    rejected: Counter[str] = Counter()
    for pair in pairs:
        if pair.outcome != "chosen" or pair.chosen_ids is None or pair.rejected_ids is None:
            rejected["pair_unpaired"] += 1
            continue
        tokens = TokenPair(
            pair_id=pair.pair_id,
            content_hash=pair.content_hash,
            chosen=TokenSequence(prompt_ids=pair.prompt_ids, completion_ids=pair.chosen_ids),
            rejected=TokenSequence(prompt_ids=pair.prompt_ids, completion_ids=pair.rejected_ids),
        )
        if max_length is not None and tokens.length > max_length:
            rejected["pair_too_long"] += 1
            continue
        kept.append(tokens)
    return kept, dict(rejected)


def check_signatures(shards: Sequence[PairShard], expected: TokenSignature | None = None) -> None:
    """Raise UsageError, naming the shard, unless all were made by the same tokenizer, template and stop ids."""
    for shard in shards:
        wanted = expected or shards[0].signature
        if shard.signature != wanted:
            names = [name for name in vars(wanted) if getattr(shard.signature, name) != getattr(wanted, name)]
            raise UsageError(
                f"{shard.path} was made with another {' and '.join(names)} than the policy's: got "
                f"{[getattr(shard.signature, name) for name in names]}, expected "
                f"{[getattr(wanted, name) for name in names]}; its token ids would mean other text, so make the "
                "round's shards again with the policy's own tokenizer"
            )
