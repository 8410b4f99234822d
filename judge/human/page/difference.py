"""What two answers do not share, word by word; by lines where they are too long for words."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from html import escape
from typing import Literal

from judge.human.page.visible import Marks

MAX_CHARS = 20_000
# Comparisons of one pass of the matcher: it bounds repetitive texts, on which difflib takes quadratic time and more.
_MAX_COMPARISONS = 200_000
# A token takes the white space before it along. Scripts without spaces between words are compared by character.
_WORDS = re.compile(
    r"\s*(?:[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    r"|[^\W\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+|[^\w\s])|\s+$"
)
Level = Literal["words", "lines", "none"]
Spans = list[tuple[bool, str]]  # (whether the other text has it too, text)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Two texts as HTML: <del> is what the left one alone has, <ins> what the right one alone has.

    level says what was compared; none means that the texts were too long and too repetitive, and nothing is marked.
    """

    left: str
    right: str
    level: Level
    is_cut: bool


def difference(left: str, right: str) -> Difference:
    """Compares two texts, of which the first MAX_CHARS characters each are looked at."""
    marks = Marks(left[:MAX_CHARS], right[:MAX_CHARS])
    level, spans_left, spans_right = _compare(*marks.texts)
    return Difference(
        left=marks.restore(_html(spans_left, "del")),
        right=marks.restore(_html(spans_right, "ins")),
        level=level,
        is_cut=max(len(left), len(right)) > MAX_CHARS,
    )


def _compare(left: str, right: str) -> tuple[Level, Spans, Spans]:
    if (spans := _spans(_WORDS.findall(left), _WORDS.findall(right))) is not None:
        return "words", *spans
    if (spans := _spans(left.splitlines(keepends=True), right.splitlines(keepends=True))) is not None:
        return "lines", *spans
    return "none", [(True, left)], [(True, right)]


def _spans(left: Sequence[str], right: Sequence[str]) -> tuple[Spans, Spans] | None:
    """Shared and unshared runs of both; None where the matcher would take too long."""
    others = Counter(right)
    if sum(num * others[token] for token, num in Counter(left).items()) > _MAX_COMPARISONS:
        return None
    spans_left: Spans = []
    spans_right: Spans = []
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, left, right, autojunk=False).get_opcodes():
        if i1 < i2:
            spans_left.append((tag == "equal", "".join(left[i1:i2])))
        if j1 < j2:
            spans_right.append((tag == "equal", "".join(right[j1:j2])))
    return spans_left, spans_right


def _html(spans: Spans, element: Literal["del", "ins"]) -> str:
    return "".join(escape(text) if shared else _marked(text, element) for shared, text in spans)


def _marked(text: str, element: str) -> str:
    """The element around the text, without the white space before it: a mark that starts with a gap reads badly."""
    bare = text.lstrip()
    gap = escape(text[: len(text) - len(bare)])
    return f"{gap}<{element}>{escape(bare)}</{element}>" if bare else f"<{element}>{gap}</{element}>"
