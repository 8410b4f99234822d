"""Formulas in Markdown as MathML: $..$, $$..$$, \\(..\\), \\[..\\] and the environments of amsmath."""

import re
from bisect import bisect_left
from collections.abc import MutableMapping, Sequence
from html import escape
from typing import Any
from xml.etree import ElementTree

from latex2mathml.converter import convert
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_block import StateBlock
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin

from judge.human.page.sanitising import MATHML
from judge.human.page.visible import STANDS_IN

_ENVIRONMENTS = "equation|align|aligned|gather|gathered|multline|split|eqnarray|matrix|pmatrix|bmatrix|cases|array"
_BLOCK_START = re.compile(r"\\\[|\\begin\{((?:" + _ENVIRONMENTS + r")\*?)\}")
_NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
_MAX_FORMULAS = 300  # of one text
_MAX_CHARS = 2_000  # of one formula
_MAX_DEPTH = 25  # of braces and \left: the converter recurses


def install(markdown: MarkdownIt) -> None:
    """Adds the rules of formulas to a parser."""
    dollarmath_plugin(
        markdown, allow_labels=False, allow_space=False, allow_digits=False, allow_blank_lines=False, double_inline=True
    )
    markdown.inline.ruler.before("escape", "bracket_math", _inline)
    markdown.block.ruler.before("fence", "bracket_math", _block, {"alt": ["paragraph", "reference", "blockquote"]})
    for kind in ("math_inline", "math_inline_double", "math_block"):
        markdown.add_render_rule(kind, _render)


def to_mathml(latex: str, *, is_display: bool) -> str:
    """A formula as MathML; as its source where it is too large, nested too deeply, or not understood."""
    latex = latex.strip()
    if len(latex) <= _MAX_CHARS and _depth(latex) <= _MAX_DEPTH and not STANDS_IN.search(latex):
        try:
            markup = str(convert(latex, display="block" if is_display else "inline"))
            # The converter copies \text{..} as it is: what is no MathML in the end was markup of the model's own.
            if all(node.tag.removeprefix(_NAMESPACE) in MATHML for node in ElementTree.fromstring(markup).iter()):
                return markup
        except Exception:  # whatever a model wrote must not take the page down, and the converter names no base class
            pass
    return f'<code class="formula">{escape(latex)}</code>'


def _depth(latex: str) -> int:
    depth = deepest = 0
    for mark in re.findall(r"\\.|[{}]", latex, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(mark, 0)
        deepest = max(deepest, depth)
    return deepest + len(re.findall(r"\\(?:left|begin|frac|sqrt|[a-z]*frac)\b", latex)) // 8


def _inline(state: StateInline, silent: bool) -> bool:
    opening = state.src[state.pos : state.pos + 2]
    if opening not in ("\\(", "\\["):
        return False
    end = state.src.find("\\)" if opening == "\\(" else "\\]", state.pos + 2, state.posMax)
    if end < 0:
        return False
    if not silent:
        token = state.push("math_inline" if opening == "\\(" else "math_inline_double", "math", 0)
        token.content = state.src[state.pos + 2 : end]
    state.pos = end + 2
    return True


def _block(state: StateBlock, start_line: int, end_line: int, silent: bool) -> bool:
    """A formula that starts a line and ends one: its lines are no lists and no headings."""
    start = state.bMarks[start_line] + state.tShift[start_line]
    opening = _BLOCK_START.match(state.src, start, state.eMarks[start_line])
    if not opening or state.is_code_block(start_line):
        return False
    closing = f"\\end{{{opening[1]}}}" if opening[1] else "\\]"
    end = state.src.find(closing, opening.end(), state.eMarks[end_line - 1])
    if end < 0:
        return False
    after = end + len(closing)
    last_line = bisect_left(state.eMarks, after, start_line, end_line)
    if state.src[after : state.eMarks[last_line]].strip():
        return False
    if silent:
        return True
    token = state.push("math_block", "math", 0)
    token.content = state.src[start:after] if opening[1] else state.src[opening.end() : end]
    token.block = True
    token.map = [start_line, last_line + 1]
    state.line = last_line + 1
    return True


def _render(self: RendererHTML, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
    token = tokens[idx]
    env["num_formulas"] = env.get("num_formulas", 0) + 1
    if env["num_formulas"] > _MAX_FORMULAS:
        return f'<code class="formula">{escape(token.content)}</code>'
    formula = to_mathml(token.content, is_display=token.type != "math_inline")
    element = "div" if token.type == "math_block" else "span"
    kind = "formula-inline" if token.type == "math_inline" else "formula-display"
    return f'<{element} class="{kind}">{formula}</{element}>'
