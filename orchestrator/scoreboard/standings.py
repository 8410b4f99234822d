"""One ranking of all rounds of a run, from who beat whom on the held-out prompts."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from orchestrator.types import RoundRecord

if TYPE_CHECKING:
    from orchestrator.scoreboard.ranking import Strength


def rank_rounds(records: Sequence[RoundRecord]) -> "tuple[Strength, ...]":
    """Bradley-Terry strengths of each evaluated round's policy, the base anchored at 0; empty where nothing was.

    From the headline judge's win rates against the base and against the round before. Their prompts count once each.
    """
    from orchestrator.scoreboard.ranking import Comparison, bradley_terry, win_counts  # scipy: seconds to import

    comparisons: list[Comparison] = []
    places = {0: 0}  # policy version to its place among the players; the base first
    rounds = []
    for record in records:
        base = record.scores.standing(record.scores.headline, "base") if record.scores else None
        if record.scores is None or base is None or base.win_rate is None or record.policy_out.version in places:
            continue
        place = places.setdefault(record.policy_out.version, len(places))
        rounds.append(record.round_id)
        against = [(0, base.win_rate)]
        previous = record.scores.standing(record.scores.headline, "previous")
        before = places.get(record.policy_in.version)
        if previous is not None and previous.win_rate is not None and before:
            against.append((before, previous.win_rate))
        comparisons += [
            Comparison(a=place, b=other, preference=rate.mean, weight=float(rate.num_prompts))
            for other, rate in against
        ]
    if not comparisons:
        return ()
    found = bradley_terry(win_counts(comparisons, len(places)))
    return tuple(replace(strength, round_id=round_id) for round_id, strength in zip(rounds, found[1:], strict=True))
