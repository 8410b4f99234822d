"""What may be in the HTML that is made of models' texts; everything else is taken out, whichever parser let it in."""

import re
from functools import cache

import nh3

ADDRESS = re.compile(r"(?:https?://|mailto:)[^\s]", re.IGNORECASE)  # what a link may lead to
_MATHML_NAMES = (
    "math mrow mi mo mn ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mtable mtr mtd "
    "mstyle mpadded menclose"
)
_HTML_NAMES = "p br hr h3 h4 h5 h6 strong em s blockquote ul ol li code pre table thead tbody tr th td a span div"
_MATHML_ATTRIBUTES = (
    "display mathvariant stretchy fence form separator accent accentunder linethickness displaystyle columnalign "
    "columnspacing rowspacing columnlines rowlines minsize maxsize symmetric largeop movablelimits lspace rspace "
    "width notation"
)
MATHML = frozenset(_MATHML_NAMES.split())
_TAGS = MATHML | frozenset(_HTML_NAMES.split())
_ATTRIBUTES = {
    **{name: {"class"} for name in ("span", "div", "code", "h3", "h4", "h5", "h6", "th", "td")},
    **{name: set(_MATHML_ATTRIBUTES.split()) for name in MATHML},
    "a": {"href", "title"},
    "ol": {"start"},
}
_CLASS = re.compile(r"tok-[a-z0-9]{1,3}|level-[1-6]|align-(?:left|center|right)|formula(?:-inline|-display)?|scrolls")
_WORDS = re.compile(r"[a-z-]{1,24}(?: [a-z-]{1,24}){0,40}")
# No width that pushes other things away, and no negative one that draws over them.
_LENGTH = re.compile(r"(?:-0?\.[0-9]{1,6}|[0-9]{0,2}(?:\.[0-9]{1,6})?)(?:em|ex|px|pt|%)?")
_LENGTHS = re.compile(rf"{_LENGTH.pattern}(?: {_LENGTH.pattern}){{0,20}}")


def sanitised(html: str) -> str:
    """HTML of allowed elements and attributes alone; links lead to http, https and mailto, and name no referrer."""
    return _cleaner().clean(html)


@cache
def _cleaner() -> nh3.Cleaner:
    return nh3.Cleaner(
        tags=set(_TAGS),
        attributes=_ATTRIBUTES,
        attribute_filter=_attribute,
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow",
        set_tag_attribute_values={"a": {"target": "_blank"}},
    )


def _attribute(tag: str, name: str, value: str) -> str | None:
    if name == "class":
        return value if _CLASS.fullmatch(value) else None
    if name == "href":
        return value if ADDRESS.match(value) else None
    if name == "start":
        return value if value.isdecimal() and len(value) < 10 else None
    if tag in MATHML:
        return value if _WORDS.fullmatch(value) or _LENGTHS.fullmatch(value) else None
    return value
