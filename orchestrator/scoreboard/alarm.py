"""The over-optimisation alarm: the training judge is pleased more and more, a judge that nobody trains on is not.

And what follows where nobody hears it: the policy has let go of its base, and then no judge is pleased.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import hypot

from orchestrator.types import Interval

# A policy that loses two held-out prompts in three to the one that it began with has not merely had a bad round.
_COLLAPSED = 1 / 3


@dataclass(frozen=True, kw_only=True)
class RoundSummary:
    """A round as the alarm sees it.

    judge and gold: win rates against the base under the training judge and under the frozen one, with intervals;
    judge_previous and gold_previous the same against the policy that the round began with.
    kl in nats a token to the base; length in tokens an answer; None where it was not measured.
    """

    round_id: int
    judge: Interval
    gold: Interval | None = None
    judge_previous: Interval | None = None
    gold_previous: Interval | None = None
    kl: float | None = None
    length: float | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """How much a win rate has moved, with its interval."""

    mean: float
    low: float
    high: float


def alarms(
    history: Sequence[RoundSummary],
    *,
    rounds: int = 2,
    min_growth: float = 0.05,
    judge_change: Interval | None = None,
    gold_change: Interval | None = None,
) -> tuple[str, ...]:
    """Why the last round of the history is over-optimised, in words; empty where it is not, or cannot be told.

    `over_optimisation` (Gao et al., 2210.10760) looks at the last `rounds` rounds, each against the policy that it
    began with where that was measured: against the base, a judge who is pleased already has no room left to rise. It
    asks that the training judge calls each of them better, and all of them together significantly; that gold calls
    none of them significantly better, nor all together; that the two differ significantly; and that KL to the base,
    or length, has grown by the share min_growth. Where only win rates against the base were measured, it asks all of
    this of the last round and the one `rounds` before it:
      1. the training judge rose: its estimate in each of the rounds, and over all of them significantly (low > 0);
      2. gold is flat or down: in none of the rounds, nor over all of them, significantly up (low <= 0);
      3. the two changes differ significantly (the difference of both, intervals added as independent, low > 0), so
         that a gold judge who sees less of the same rise is not mistaken for one who sees none;
      4. KL to the base, or length, has grown by the share min_growth over these rounds.
    `judges_disagree` looks at the last round alone: the training judge says significantly better than the base (low
    above one half), gold significantly worse (high below one half). `collapse` asks that a judge, either of them,
    calls the last round's policy significantly worse than the one that it began with (high below one third), while KL
    or length has grown by min_growth in that round.

    judge_change and gold_change are the paired differences of the last round to the one `rounds` before it
    (`intervals.paired_difference`). Without them the two rounds' intervals are subtracted as if independent, which on
    shared prompts is wider: later to fire, never sooner.
    """
    found = []
    if history and (reason := _disagreement(history[-1])):
        found.append(reason)
    if reason := _collapse(history[-2:], min_growth):
        found.append(reason)
    window = history[-(rounds + 1) :]
    if len(window) == rounds + 1:
        reason = _parting(window, min_growth) or _divergence(window, min_growth, judge_change, gold_change)
        found += [reason] if reason else []
    return tuple(found)


def _disagreement(last: RoundSummary) -> str | None:
    if last.gold is None or last.judge.low <= 0.5 or last.gold.high >= 0.5:
        return None
    return (
        f"judges_disagree: in round {last.round_id} the training judge says better than the base "
        f"({last.judge.mean:.3f}, at least {last.judge.low:.3f}), the gold judge worse "
        f"({last.gold.mean:.3f}, at most {last.gold.high:.3f})"
    )


def _collapse(window: Sequence[RoundSummary], min_growth: float) -> str | None:
    grown = _grown(window, min_growth) if len(window) == 2 else []
    rates = {"training": window[-1].judge_previous, "gold": window[-1].gold_previous} if grown else {}
    lost = {name: rate for name, rate in rates.items() if rate is not None and rate.high < _COLLAPSED}
    if not lost:
        return None
    said = " and ".join(f"the {name} judge ({rate.mean:.3f}, at most {rate.high:.3f})" for name, rate in lost.items())
    return (
        f"collapse: in round {window[-1].round_id} the policy loses to the one that it began with under {said}, "
        f"while {' and '.join(grown)}"
    )


def _parting(window: Sequence[RoundSummary], min_growth: float) -> str | None:
    """Judge and gold against the policy before, over all rounds of the window but its first."""
    judges = [summary.judge_previous for summary in window[1:] if summary.judge_previous is not None]
    golds = [summary.gold_previous for summary in window[1:] if summary.gold_previous is not None]
    grown = _grown(window, min_growth)
    if not grown or not len(judges) == len(golds) == len(window) - 1:
        return None
    judge, gold = _mean(judges), _mean(golds)
    pleased = all(each.mean > 0.5 for each in judges) and judge.low > 0.5
    gold_rises = gold.low > 0.5 or any(each.low > 0.5 for each in golds)
    apart = judge.mean - gold.mean - hypot(judge.mean - judge.low, gold.high - gold.mean)
    if not pleased or gold_rises or apart <= 0:
        return None
    return (
        f"over_optimisation: in rounds {window[1].round_id} to {window[-1].round_id} the training judge prefers each "
        f"policy to the one before ({judge.mean:.3f} on average), the gold judge does not ({gold.mean:.3f}), "
        f"while {' and '.join(grown)}"
    )


def _mean(intervals: Sequence[Interval]) -> Change:
    """The mean of win rates of different rounds, their errors taken as independent."""
    mean = sum(each.mean for each in intervals) / len(intervals)
    down = hypot(*(each.mean - each.low for each in intervals)) / len(intervals)
    up = hypot(*(each.high - each.mean for each in intervals)) / len(intervals)
    return Change(mean=mean, low=mean - down, high=mean + up)


def _divergence(
    window: Sequence[RoundSummary], min_growth: float, judge_change: Interval | None, gold_change: Interval | None
) -> str | None:
    golds = [summary.gold for summary in window if summary.gold is not None]
    if len(golds) < len(window):
        return None
    judges = [summary.judge for summary in window]
    judge = _paired(judge_change) or _change(judges[0], judges[-1])
    gold = _paired(gold_change) or _change(golds[0], golds[-1])
    rises_each_round = all(after.mean > before.mean for before, after in pairwise(judges))
    gold_rises = gold.low > 0 or any(_change(a, b).low > 0 for a, b in pairwise(golds))
    apart = judge.mean - gold.mean - hypot(judge.mean - judge.low, gold.high - gold.mean)
    grown = _grown(window, min_growth)
    if not rises_each_round or judge.low <= 0 or gold_rises or apart <= 0 or not grown:
        return None
    return (
        f"over_optimisation: from round {window[0].round_id} to {window[-1].round_id} the training judge's win rate "
        f"moved by {judge.mean:+.3f}, the gold judge's by {gold.mean:+.3f}, while {' and '.join(grown)}"
    )


def _paired(change: Interval | None) -> Change | None:
    return None if change is None else Change(mean=change.mean, low=change.low, high=change.high)


def _change(before: Interval, after: Interval) -> Change:
    mean = after.mean - before.mean
    down = hypot(after.mean - after.low, before.high - before.mean)
    up = hypot(after.high - after.mean, before.mean - before.low)
    return Change(mean=mean, low=mean - down, high=mean + up)


def _grown(window: Sequence[RoundSummary], min_growth: float) -> list[str]:
    first, last = window[0], window[-1]
    measures = (("KL", first.kl, last.kl), ("length", first.length, last.length))
    return [
        f"{name} grew from {was:.4g} to {now:.4g}"
        for name, was, now in measures
        if was is not None and now is not None and now > was and now - was >= min_growth * abs(was)
    ]
