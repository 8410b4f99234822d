"""Numbers as people and models write them: 1,234.5 and 1e-3, fractions such as 3/4, and percentages.

A fraction is its quotient and a percentage a hundredth of its number: 12.5% is 0.125, so that a reference of 12.5
is not met by an answer of 12.5%.
"""

import math
import re
from collections import deque

_PLAIN = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
# A sign right after a letter or a digit is a hyphen or an operation: "10-5" ends in 5.
_NUMBER = re.compile(
    rf"(?P<sign>(?<![\w)])[-+])?(?:(?<=[-+])\s?)?[$€£]?(?P<over>{_PLAIN})(?:\s?/\s?(?P<under>{_PLAIN}))?(?P<percent>\s?%)?"
)


def last_number(text: str) -> float | None:
    """The last number that the text holds; None if it holds none, or none that is finite."""
    found = deque(_NUMBER.finditer(_plain(text)), maxlen=1)
    return _value(found[0]) if found else None


def read_number(text: str) -> float | None:
    """The number that the whole text is, blanks at its ends aside; None if it is none, or is not finite."""
    found = _NUMBER.fullmatch(_plain(text).strip())
    return _value(found) if found else None


def _plain(text: str) -> str:
    return text.replace("\N{MINUS SIGN}", "-")


def _value(found: re.Match[str]) -> float | None:
    over, under = (float(found[name].replace(",", "")) if found[name] else 1.0 for name in ("over", "under"))
    if under == 0.0 or not math.isfinite(under):
        return None
    value = over / under / (100 if found["percent"] else 1)
    if not math.isfinite(value):
        return None
    return -value if found["sign"] == "-" else value
