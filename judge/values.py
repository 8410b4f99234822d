"""What the user's code may return, and the reason under which everything else is counted."""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from judge.types import Outcome, Score, Verdict
from rollout.errors import DataError

_ABSTAINED = DataError("abstained")


def read_values(result: Any, expected: int) -> list[float | DataError]:
    """What a function returned, entry by entry: a finite number, or why there is none.

    Lists, tuples, arrays and tensors of numbers and None are read. Raises DataError where nothing of it is usable:
    judge_wrong_type or judge_wrong_count.
    """
    try:
        entries = list(result if isinstance(result, list | tuple) else result.tolist())
    except Exception as error:  # the object is the user's: anything may happen inside it
        got = type(result).__name__
        raise DataError("judge_wrong_type", f"got {got}, expected a list of numbers or None") from error
    if len(entries) != expected:
        raise DataError("judge_wrong_count", f"got {len(entries)} values, expected {expected}")
    return [read_number(entry) for entry in entries]


def read_number(entry: Any) -> float | DataError:
    """A finite number from an int, a float, a bool or a scalar of numpy or torch; else the reason why there is none."""
    if type(entry) is float and math.isfinite(entry):  # nearly always, and a round has millions of them
        return entry
    if entry is None:
        return _ABSTAINED
    try:
        number = entry if isinstance(entry, Real) else entry.item()
        value = float(number) if isinstance(number, Real) else None
    except OverflowError:
        value = math.inf
    except Exception:  # as above
        value = None
    if value is None:
        return DataError("judge_wrong_type", f"got {type(entry).__name__}, expected a number or None")
    return value if math.isfinite(value) else DataError("judge_not_finite", f"got {value}, expected a finite number")


def as_probability(value: float | DataError) -> float | DataError:
    """The value, if it is a probability; else the reason why it is none."""
    if isinstance(value, DataError) or 0.0 <= value <= 1.0:
        return value
    return DataError("judge_out_of_range", f"got {value}, expected a probability from 0 to 1")


def split(value: float | DataError) -> tuple[float | None, str, bytes]:
    """(value, reason, evidence) as a Score or Verdict holds them."""
    if isinstance(value, DataError):
        return None, value.reason, value.detail.encode(errors="backslashreplace")
    return value, "", b""


def outcome_of(left: float | None, right: float | None) -> Outcome:
    """The higher side wins, equal is a tie, and nothing follows from a missing side."""
    if left is None or right is None:
        return "abstain"
    return "tie" if left == right else "a" if left > right else "b"


def verdicts_of_scores(scores: Sequence[Score], wanted: Sequence[tuple[int, int]]) -> list[Verdict]:
    """One verdict for each wanted (a, b); a comparison with a missing score abstains for that score's reason."""
    by_index = {score.index: score for score in scores}
    verdicts = []
    for a, b in wanted:
        left, right = by_index[a], by_index[b]
        missing = left if left.value is None else right
        verdict = Verdict(
            prompt_id=left.prompt_id,
            a=a,
            b=b,
            outcome=outcome_of(left.value, right.value),
            p_a=None,
            judge_id=left.judge_id,
            source=left.source,
            reason=missing.reason,
            evidence=missing.evidence,
        )
        verdicts.append(verdict)
    return verdicts
