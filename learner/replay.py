"""Replay: pairs of older rounds among the fresh ones, in a chosen share."""

import hashlib
import math
from collections.abc import Sequence

from learner.pairs import TokenPair


def replayed(older: Sequence[TokenPair], *, num_fresh: int, share: float, seed: int, round_id: int) -> list[TokenPair]:
    """The older pairs that join num_fresh fresh ones, so that they make up `share` of all; fewer where there are fewer.

    Which ones is a function of (seed, round_id, pair_id) alone. None join a round without fresh pairs.
    """
    wanted = math.floor(share / (1.0 - share) * num_fresh + 0.5)

    def turn(pair: TokenPair) -> str:
        return hashlib.sha256(f"{seed} {round_id} replay {pair.pair_id}".encode()).hexdigest()

    return sorted(older, key=turn)[:wanted]
