"""From preference pairs to training rows: what cannot be trained is counted by reason."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from judge.types import PairShard, PreferencePair
from learner.batches import num_tokens
from learner.objective_config import ObjectiveConfig
from learner.objectives import OBJECTIVES
from rollout.errors import UsageError
from rollout.shards import hash_json
from rollout.types import Logps, TokenIds, TokenSequence, TokenSignature

# What the judge said where it preferred neither.
_LEVEL = ("tie", "both_bad")


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenPair:
    """Both sides of a preference as tokens; content_hash is that of its token ids.

    A side that is missing has no completion tokens. tied: the judge preferred neither. sampled_*_logp: the sum of the
    side's log-probabilities under the policy that sampled it, as its engine gave them; 0 where it gave none. is_cut:
    an answer lost its end.
    """

    pair_id: str
    content_hash: str
    chosen: TokenSequence
    rejected: TokenSequence
    tied: bool = False
    sampled_chosen_logp: float = 0.0
    sampled_rejected_logp: float = 0.0
    is_cut: bool = False

    @property
    def length(self) -> int:
        return max(num_tokens(self.chosen), num_tokens(self.rejected))


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingPair:
    """A pair with the reference's log-probabilities: float32[C] of the chosen, float32[R] of the rejected answer.

    They are None where no loss needs a reference, and until the step where the reference moves. mismatched: the same
    prompt with another pair's answers, from which KTO estimates its KL.
    """

    pair: TokenPair
    ref_chosen_logps: Logps | None = None
    ref_rejected_logps: Logps | None = None
    mismatched: "TrainingPair | None" = None

    @property
    def sides(self) -> tuple[TokenSequence, TokenSequence]:
        return self.pair.chosen, self.pair.rejected


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """Rows that the chosen losses can learn from beside decided pairs, and whether rows need sampled logps."""

    ties: bool = False
    one_sided: bool = False
    sampled: bool = False

    @classmethod
    def by(cls, settings: ObjectiveConfig) -> "Trainable":
        """What all losses of a mixture can learn from."""
        chosen = [OBJECTIVES[term.name] for term in settings.losses]
        return cls(
            ties=all(objective.ties for objective in chosen),
            one_sided=settings.one_sided,
            sampled=settings.staleness_weights != "none",
        )


def trainable(
    pairs: Iterable[PreferencePair],
    *,
    max_length: int | None,
    rows: Trainable | None = None,
    too_long: Literal["drop", "truncate"] = "drop",
) -> tuple[list[TokenPair], Mapping[str, int]]:
    """The rows that the chosen losses can learn from, and the number of the others by reason.

    Both bad is a tie to losses of ties, and two rows with a rejected side to those of one side (KTO). Reasons:
    pair_unpaired (a tie, or one side missing, unless `rows` takes them), pair_unsampled (it has no sampled
    log-probabilities and `rows` needs them), pair_too_long (either side with its prompt is longer than max_length) and
    pair_equal_when_cut. A cut answer is not the one that was judged, so answers lose their end only where too_long is
    truncate: to max_length tokens with the prompt, which stays whole, as TRL does; a pair whose prompt leaves no room
    is too long all the same. No EOS is put in place of the one that is lost.
    """
    kept: list[TokenPair] = []
    rejected: Counter[str] = Counter()
    rows = rows or Trainable()
    for pair in pairs:
        reason = _unusable(pair, rows)
        if reason is not None:
            rejected[reason] += 1
            continue
        tokens = _tokens(pair)
        if max_length is not None and tokens.length > max_length:
            reason = "pair_too_long"
            if too_long == "truncate" and len(pair.prompt_ids) < max_length:
                tokens = _tokens(pair, max_length=max_length)
                is_equal = np.array_equal(tokens.chosen.completion_ids, tokens.rejected.completion_ids)
                reason = "pair_equal_when_cut" if is_equal else None
            if reason is not None:
                rejected[reason] += 1
                continue
        kept += _undesirable(tokens) if pair.outcome == "both_bad" and rows.one_sided else [tokens]
    return kept, dict(rejected)


def _undesirable(pair: TokenPair) -> list[TokenPair]:
    """Two rows with a rejected side each, of a pair that was judged bad on both."""
    sides = (("a", pair.chosen, pair.sampled_chosen_logp), ("b", pair.rejected, pair.sampled_rejected_logp))
    return [
        TokenPair(
            pair_id=f"{pair.pair_id}/{name}",
            content_hash=hash_json([pair.content_hash, "undesirable", name]),
            chosen=_side(side.prompt_ids, None),
            rejected=side,
            sampled_rejected_logp=sampled_logp,
            is_cut=pair.is_cut,
        )
        for name, side, sampled_logp in sides
    ]


def _tokens(pair: PreferencePair, *, max_length: int | None = None) -> TokenPair:
    """max_length: answers end there, prompt included; the content hash is then that of the cut pair."""
    room = None if max_length is None else max_length - len(pair.prompt_ids)
    return TokenPair(
        pair_id=pair.pair_id,
        content_hash=pair.content_hash if room is None else hash_json([pair.content_hash, "cut", max_length]),
        chosen=_side(pair.prompt_ids, pair.chosen_ids, room),
        rejected=_side(pair.prompt_ids, pair.rejected_ids, room),
        tied=pair.outcome in _LEVEL,
        sampled_chosen_logp=_sum(pair.chosen_logps, room),
        sampled_rejected_logp=_sum(pair.rejected_logps, room),
        is_cut=room is not None,
    )


def mismatched(pairs: Sequence[TokenPair], *, max_length: int | None) -> list[TokenPair | None]:
    """Each pair's prompt with the answers of the next pair, in a circle, that has another prompt and fits.

    None where there is no such pair.
    """
    return [_mismatch(pair, [*pairs[i + 1 :], *pairs[:i]], max_length) for i, pair in enumerate(pairs)]


def _mismatch(pair: TokenPair, others: Sequence[TokenPair], max_length: int | None) -> TokenPair | None:
    prompt_ids = pair.chosen.prompt_ids
    for other in others:
        if np.array_equal(other.chosen.prompt_ids, prompt_ids):
            continue
        made = TokenPair(
            pair_id=f"{pair.pair_id}/mismatched",
            content_hash=hash_json([pair.content_hash, other.content_hash]),
            chosen=_side(prompt_ids, other.chosen.completion_ids),
            rejected=_side(prompt_ids, other.rejected.completion_ids),
        )
        if max_length is None or made.length <= max_length:
            return made
    return None


def _unusable(pair: PreferencePair, rows: Trainable) -> str | None:
    sides = [pair.chosen_ids, pair.rejected_ids]
    num_sides = sum(ids is not None for ids in sides)
    decided = pair.outcome == "chosen" and (num_sides == 2 or (rows.one_sided and num_sides == 1))
    level = rows.ties and pair.outcome in _LEVEL and num_sides == 2
    undesirable = rows.one_sided and pair.outcome == "both_bad" and num_sides == 2
    if not (decided or level or undesirable):
        return "pair_unpaired"
    sampled = [pair.chosen_logps, pair.rejected_logps]
    missing = any(ids is not None and logps is None for ids, logps in zip(sides, sampled, strict=True))
    return "pair_unsampled" if rows.sampled and missing else None


def _side(prompt_ids: TokenIds, completion_ids: TokenIds | None, room: int | None = None) -> TokenSequence:
    ids = np.zeros(0, np.int32) if completion_ids is None else completion_ids[:room]
    return TokenSequence(prompt_ids=prompt_ids, completion_ids=ids)


def _sum(logps: Logps | None, room: int | None = None) -> float:
    return 0.0 if logps is None else float(np.sum(logps[:room], dtype=np.float64))


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
