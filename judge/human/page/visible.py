"""Characters that a reader cannot see, made visible: bidirectional controls, zero widths, NUL, lone surrogates."""

import re
import unicodedata
from html import escape

# One character of supplementary private use stands for each marked one while Markdown and HTML are made: it passes
# through every parser as an ordinary letter, and text that holds one itself has it marked, so none can be forged.
_FIRST, _LAST = 0xF0000, 0xFFFFD
STANDS_IN = re.compile(f"[{chr(_FIRST)}-{chr(_LAST)}]")
_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
_BLANK = set("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")  # letters without a glyph
_JOINERS = {"\u200c", "\u200d"}  # in Persian, Indic scripts and emoji
_PRESENTATION = {"\ufe0e", "\ufe0f"}  # text or colour, after an emoji


def _is_hidden(char: str) -> bool:
    if char in "\t\n":
        return False
    is_variation = "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef"
    return is_variation or char in _BLANK or unicodedata.category(char) in _CATEGORIES


def _joins(char: str, before: str, after: str) -> bool:
    """Whether a joiner or a variation selector stands where writing needs it."""
    if char in _PRESENTATION:
        return before > "\x7f" or before in "0123456789#*"
    return char in _JOINERS and before > "\x7f" and after > "\x7f" and after not in _JOINERS


class Marks:
    """The hidden characters of some texts: out of them before they are rendered, back as marks in the HTML.

    texts are the given ones with stand-ins, in order; line ends become LF. Any string is taken, also with NUL and
    lone surrogates.
    """

    def __init__(self, *texts: str) -> None:
        unified = [text.replace("\r\n", "\n").replace("\r", "\n") for text in texts]
        self._originals = sorted(char for char in set().union(*unified) if _is_hidden(char))[: _LAST - _FIRST]
        self._stand_ins = {char: chr(_FIRST + index) for index, char in enumerate(self._originals)}
        self.texts = tuple(self._without_hidden(text) for text in unified)

    def restore(self, html: str) -> str:
        """The HTML with a visible mark for each hidden character; no attribute may hold a stand-in."""
        return STANDS_IN.sub(self._mark, html)

    def _without_hidden(self, text: str) -> str:
        if self._stand_ins.keys().isdisjoint(_JOINERS | _PRESENTATION):
            return text.translate({ord(char): stand_in for char, stand_in in self._stand_ins.items()})
        padded = f" {text} "
        around = zip(padded, text, padded[2:], strict=False)
        return "".join(
            char if char not in self._stand_ins or _joins(char, before, after) else self._stand_ins[char]
            for before, char, after in around
        )

    def _mark(self, match: re.Match[str]) -> str:
        index = ord(match.group()) - _FIRST
        if index >= len(self._originals):
            return "\ufffd"
        return f'<span class="hidden-char">U+{ord(self._originals[index]):04X}</span>'


def shown(text: str) -> str:
    """Text as HTML: escaped, and hidden characters marked."""
    marks = Marks(text)
    return marks.restore(escape(marks.texts[0]))
