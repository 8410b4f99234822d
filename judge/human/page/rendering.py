"""What a model wrote as HTML that cannot do anything: Markdown, highlighted code and formulas, sanitised."""

import re
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name

from judge.human.page.mathematics import install
from judge.human.page.sanitising import ADDRESS, sanitised
from judge.human.page.visible import Marks

MAX_CHARS = 20_000
_MAX_NESTING = 40  # of lists and quotations; the parser drops what lies deeper, so such a text is shown as it is
_MAX_CODE_CHARS = 10_000  # of a block that is highlighted: some lexers take quadratic time
# Lexers by the name behind a fence. Others are shown without colours: several hundred exist, and not all are quick.
_LEXERS = {
    **dict.fromkeys(("py", "python", "python3"), "python"),
    **dict.fromkeys(("js", "javascript", "jsx", "node"), "javascript"),
    **dict.fromkeys(("ts", "typescript", "tsx"), "typescript"),
    **dict.fromkeys(("sh", "bash", "shell", "zsh"), "bash"),
    **dict.fromkeys(("c++", "cpp"), "cpp"),
    **dict.fromkeys(("cs", "csharp", "c#"), "csharp"),
    **dict.fromkeys(("yaml", "yml"), "yaml"),
    **dict.fromkeys(("rust", "rs"), "rust"),
    **dict.fromkeys(("ruby", "rb"), "ruby"),
    **dict.fromkeys(("kotlin", "kt"), "kotlin"),
    **{name: name for name in ("c", "java", "go", "swift", "php", "r", "sql", "html", "xml", "css", "json", "toml")},
    **{name: name for name in ("diff", "scala", "lua", "haskell", "julia", "latex", "docker", "ini", "makefile")},
}
_ALIGNMENT = re.compile(r"text-align:(left|center|right)")


class _NestedTooDeeplyError(Exception):
    """The parser has left something out."""


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A text as sanitised HTML; is_cut says that only its first MAX_CHARS of num_chars characters are in it."""

    html: str
    is_cut: bool
    num_chars: int


def render(text: str) -> Rendered:
    """Markdown as HTML that holds no script, no remote content, and no character that cannot be seen.

    Nothing that a model writes raises: what the parser cannot take is shown as plain text.
    """
    marks = Marks(text[:MAX_CHARS])
    try:
        html = _markdown().render(marks.texts[0], {})
    except Exception:  # a parser's defect on hostile text must not take the pair away from people
        html = f"<pre>{escape(marks.texts[0])}</pre>"
    return Rendered(html=marks.restore(sanitised(html)), is_cut=len(text) > MAX_CHARS, num_chars=len(text))


@cache
def _markdown() -> MarkdownIt:
    markdown = MarkdownIt(
        "commonmark",
        {"html": False, "linkify": False, "breaks": True, "maxNesting": _MAX_NESTING, "highlight": _highlighted},
    )
    markdown.enable(["table", "strikethrough"])
    markdown.validateLink = lambda url: bool(ADDRESS.match(url))  # type: ignore[method-assign]
    install(markdown)
    markdown.core.ruler.push("page", _fit_into_page)
    markdown.add_render_rule("image", _image)
    markdown.add_render_rule("table_open", lambda *_: '<div class="scrolls"><table>')
    markdown.add_render_rule("table_close", lambda *_: "</table></div>")
    return markdown


def _fit_into_page(state: Any) -> None:
    """Headings go below those of the page without a gap; alignment is a class; links say where they lead."""
    above: list[int] = []
    heading = ""
    for token in state.tokens:
        if token.level >= _MAX_NESTING - 1:
            raise _NestedTooDeeplyError
        if token.type == "heading_open":
            level = int(token.tag[1])
            while above and above[-1] >= level:
                above.pop()
            above.append(level)
            heading = f"h{min(6, 2 + len(above))}"
            token.attrSet("class", f"level-{level}")
        if token.type in ("heading_open", "heading_close"):
            token.tag = heading
        if match := _ALIGNMENT.fullmatch(str(token.attrs.pop("style", ""))):
            token.attrSet("class", f"align-{match[1]}")
        for child in token.children or ():
            if child.type == "link_open":
                child.attrSet("title", str(child.attrGet("href")))


def _image(self: RendererHTML, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
    token = tokens[idx]
    described = self.renderInlineAsText(token.children or [], options, env)
    return f"<span>[image: {escape(described)} ({escape(str(token.attrGet('src')))})]</span>"


def _highlighted(code: str, name: str, _attributes: str) -> str:
    lexer = _LEXERS.get(name.lower())
    if lexer is None or len(code) > _MAX_CODE_CHARS:
        return ""
    formatter = HtmlFormatter(nowrap=True, classprefix="tok-")
    return str(highlight(code, get_lexer_by_name(lexer, stripnl=False, ensurenl=False), formatter))
