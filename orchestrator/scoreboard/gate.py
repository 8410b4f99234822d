"""Promote a round's policy, or go on from the last good one."""

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.scoreboard.config import GateConfig
from orchestrator.types import Interval


@dataclass(frozen=True, kw_only=True)
class GateScores:
    """What the rules look at; None where it was not measured.

    win_rate_previous is against the policy that the round began with; kl in nats a token; length_growth is the mean
    length of the answers over that of the base's.
    """

    win_rate_previous: Interval | None = None
    kl: float | None = None
    length_growth: float | None = None
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Decision:
    """promote False: the next round begins with the policy that this one began with, the last that was promoted.

    reasons: every rule that was broken, in words, also where it only warns. unmeasured: every rule that could not be
    looked at; a missing figure neither breaks a rule nor keeps it.
    """

    promote: bool
    reasons: tuple[str, ...] = ()
    unmeasured: tuple[str, ...] = ()


def decide(rules: GateConfig, scores: GateScores) -> Decision:
    """Hold a round's scores against the rules. All broken rules are named, not only the first."""
    broken, unmeasured = [], []
    for name, value, limit, is_broken in _checks(rules, scores):
        if value is None:
            unmeasured.append(f"{name} is {limit:g}, but nothing was measured")
        elif is_broken:
            side = "at least" if name.startswith("min") else "at most"
            broken.append(f"{name}: got {value:.3g}, expected {side} {limit:g}")
    heeded = scores.alarms if rules.on_alarm == "rollback" else ()
    rolls_back = bool(heeded) or (bool(broken) and rules.action == "rollback")
    return Decision(promote=not rolls_back, reasons=(*broken, *heeded), unmeasured=tuple(unmeasured))


def _checks(rules: GateConfig, scores: GateScores) -> Iterator[tuple[str, float | None, float, bool]]:
    """Every rule that is on: its name, what was measured, the limit, and whether that breaks it."""
    rate = scores.win_rate_previous
    measured = None if rate is None else float(getattr(rate, rules.win_rate_statistic))
    if (least := rules.min_win_rate_previous) is not None:
        yield "min_win_rate_previous", measured, least, measured is not None and not measured >= least
    for name, value, most in (
        ("max_kl", scores.kl, rules.max_kl),
        ("max_length_growth", scores.length_growth, rules.max_length_growth),
    ):
        if most is not None:
            # Not `value > most`: a figure that is no number keeps no rule.
            yield name, value, most, value is not None and not value <= most
