"""How an attempt may end, given what was done to it."""

import re
from collections.abc import Sequence

from tests.chaos.faults import Struck

_TAIL_CHARS = 1500
_KNOWN = (-9, 0, 1, 3)


def check_code(code: int, said: str, made: Sequence[Struck]) -> None:
    """Raise AssertionError unless what was done explains the exit code, and a failure was told in one line."""
    ends = {one for struck in made for one in struck.codes}
    endured = any(not struck.codes for struck in made)  # it may go on, or give up where nothing else is left
    allowed = ends | ({0} if not ends or 3 in ends else set()) | ({1} if endured else set())
    assert code in allowed, f"exit code {code} instead of {sorted(allowed)}: {tail(said)}"
    if code == 1:
        check_one_line(said)


def check_one_line(said: str) -> None:
    """Raise AssertionError unless a failure was told in one line that a person understands."""
    assert "Traceback" not in said, f"a failure was told as a traceback: {tail(said)}"
    assert "failed: " in said, f"a failure was not told: {tail(said)}"


def was_too_slow(code: int, said: str) -> bool:
    """Whether Ray itself gave up starting, as it does after 30 s on a machine with too much to do."""
    return code == 1 and "Ray did not start on this machine" in said and "timed out" in said


def has_named(said: str, struck: Struck) -> bool:
    """Whether the attempt has said what it had to say."""
    return re.search(struck.said, said) is not None


def tail(said: str) -> str:
    return said[-_TAIL_CHARS:]
