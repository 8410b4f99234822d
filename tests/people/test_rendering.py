"""Text of models becomes HTML that says what they wrote, and does nothing."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from judge.human.page.rendering import MAX_CHARS, render
from judge.human.page.sanitising import MATHML
from judge.human.page.visible import shown
from tests.support.html_seen import Seen
from tests.support.label_pairs import CODE, FORMULA, HOSTILE, LONG, TABLE

TAGS = MATHML | {"p", "br", "hr", "h3", "h4", "h5", "h6", "strong", "em", "s", "blockquote", "ul", "ol", "li"}
TAGS |= {"code", "pre", "table", "thead", "tbody", "tr", "th", "td", "a", "span", "div"}
# fmt: off
HIDDEN = [
    chr(0), "\x1b", "\x85", "\u200b", "\u202e", "\u2066", "\u2028", "\ufeff", "\ud800", "\U000e0041",
    "\U000f0000", "\uffff",
]
# fmt: on


def check_inert(html: str) -> Seen:
    seen = Seen(html)
    assert set(seen.tags) <= TAGS
    for tag, name, value in seen.attributes:
        assert not name.startswith("on"), (tag, name, value)
        assert name not in {"style", "id", "name", "src", "srcset", "srcdoc", "action", "formaction", "data"}
        assert (name == "href") == (tag == "a" and name not in {"title", "target", "rel"})
        if name == "href":
            assert value.lower().startswith(("http://", "https://", "mailto:")), value
        assert not any(char in value for char in HIDDEN)
        assert not any("\U000f0000" <= char <= "\U000ffffd" for char in value)
    assert not any(char in seen.text for char in HIDDEN)
    return seen


def test_markdown_becomes_the_html_that_it_means():
    html = render(TABLE).html
    for piece in (
        '<h3 class="level-2">Three',
        '<th class="align-right">Hours',
        '<td class="align-center">1',
        "<s>Take",
    ):
        assert piece in html
    assert "<blockquote>" in html
    assert '<ol start="3">' in render("3. c\n4. d").html


def test_code_is_highlighted_and_an_unknown_language_is_not():
    assert '<span class="tok-k">def</span>' in render(CODE).html
    assert "<pre><code>x = 1" in render("```klingon\nx = 1\n```").html


def test_formulas_become_mathml_in_all_their_spellings():
    seen = check_inert(render(FORMULA).html)
    assert seen.tags.count("math") == 9
    assert "mfrac" in seen.tags
    assert "mtable" in seen.tags
    assert "It costs $5 to check and $10 to be sure." in seen.text


@pytest.mark.parametrize(
    "latex",
    [r"\frac{", r"\left(", "{" * 900 + "}" * 900, r"\text{<script>x</script>}", "x" * 3000, "a\u202eb", r"\text{a<b}"],
)
def test_a_formula_that_fails_is_shown_as_its_source(latex):
    html = render(f"so ${latex}$ it is").html
    seen = check_inert(html)
    assert "math" not in seen.tags
    assert latex.replace("\u202e", "U+202E") in seen.text


def test_headings_stand_below_those_of_the_page_without_gaps():
    seen = Seen(render("# one\n\n#### four\n\n## two\n\n###### six\n\n# one").html)
    assert [tag for tag in seen.tags if tag[0] == "h"] == ["h3", "h4", "h4", "h5", "h3"]


def test_line_ends_stay_where_they_were():
    assert "<br>" in render("roses are red\nviolets are blue").html


@pytest.mark.parametrize(
    "payload",
    [
        HOSTILE,
        "<script>alert(1)</script>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](java\tscript:alert(1))",
        "[x](&#106;avascript:alert(1))",
        "[x](data:text/html;base64,PHNjcmlwdD4=)",
        "[x](vbscript:x)",
        "[x](//remote.invalid)",
        "[x](/sign-out)",
        "<javascript:alert(1)>",
        "![x](http://remote.invalid/a.png)",
        '![x](http://remote.invalid/a.png "onerror=1")',
        '<img src=x onerror="alert(1)">',
        "<svg><script>alert(1)</script></svg>",
        "<math><mtext><table><mglyph><style><img src=x onerror=alert(1)></style></mglyph></table></mtext></math>",
        "```html\n</code></pre><script>alert(1)</script>\n```",
        '```"><script>alert(1)</script>\nx\n```',
        r"$\href{javascript:alert(1)}{x}$",
        r"$\style{color:red}{x}$ $\class{button}{x}$ $\cssId{main}{x}$",
        r"$\text{<img src=x onerror=alert(1)>}$",
        r"$\hspace{9999em}x$",
        "[x]: javascript:alert(1)\n\n[x]",
        "<form action=/sign-out method=post><input type=submit></form>",
        "|<script>|\n|-|\n|<img src=x onerror=1>|",
        '<a href="https://a.invalid" onclick="alert(1)">x</a>',
        "<!-- x --><![CDATA[ x ]]><?php x ?><!doctype html>",
    ],
)
def test_what_would_do_something_is_text(payload):
    seen = check_inert(render(payload).html)
    assert not {"script", "img", "svg", "form", "style", "input"} & set(seen.tags)


def test_markup_of_the_answer_is_shown_and_not_swallowed():
    text = "<b>bold</b> & <script>alert(1)</script> &amp; <!-- a remark -->"
    assert Seen(render(text).html).text.strip() == text.replace("&amp;", "&")


def test_links_say_where_they_lead_and_tell_nobody_from_where():
    html = render("[here](https://example.org/a?b=c) and <me@example.org>").html
    assert 'href="https://example.org/a?b=c" title="https://example.org/a?b=c" target="_blank"' in html
    assert 'rel="noopener noreferrer nofollow"' in html
    assert 'href="mailto:me@example.org"' in html


def test_an_image_is_its_words_and_its_address():
    assert (
        "[image: a cat (https://example.org/cat.png)]"
        in Seen(render("![a cat](https://example.org/cat.png)").html).text
    )


@pytest.mark.parametrize("char", HIDDEN)
def test_a_character_that_cannot_be_seen_is_marked(char):
    mark = f'<span class="hidden-char">U+{ord(char):04X}</span>'
    for text in (f"a{char}b", f"`a{char}b`", f"```python\nx = 'a{char}b'\n```", f"# a{char}b"):
        html = render(text).html
        assert mark in html, text
        check_inert(html)
    assert shown(f"<{char}>") == f"&lt;{mark}&gt;"


def test_joiners_stay_where_writing_needs_them():
    for text in ("👩\u200d💻", "می\u200cخواهم", "❤\ufe0f", "1\ufe0f\u20e3"):
        assert shown(text) == text
    assert "U+200D" in shown("a\u200db")
    assert "U+FE0F" in shown("a\ufe0f")


def test_a_megabyte_is_cut_and_says_so():
    rendered = render("word " * 200_000)
    assert rendered.is_cut
    assert rendered.num_chars == 1_000_000
    assert len(rendered.html) < 2 * MAX_CHARS
    assert not render("word").is_cut


@pytest.mark.parametrize(
    "text",
    [">" * 200 + " deep", "- " * 300 + "deep", "".join("  " * i + "- a\n" for i in range(60)) + "  " * 60 + "- deep"],
)
def test_what_the_parser_would_drop_is_shown_as_it_is(text):
    seen = Seen(render(text).html)
    assert "deep" in seen.text


SLOW = {
    "brackets": "[" * MAX_CHARS,
    "links": "[a](b" * 4000,
    "images": "![" * 10_000,
    "stars": "*a " * 6666,
    "underscores": "_a__" * 5000,
    "ticks": "".join("`" * i + " " for i in range(200)),
    "quotes": ("> " * 20 + "\n") * 400,
    "table": "|a|b|\n|-|-|\n" + "|\n" * 9000,
    "formulas": "$x^2$ " * 3300,
    "openings": "\\[\n" * 6000,
    "begins": "\\begin{align}\n" * 1400,
    "python": "```python\n" + '"""\\' * 2000 + "\n```",
    "script": "```js\n" + "`${" * 3000 + "\n```",
    "markup": "```html\n" + "<a " * 3000 + "\n```",
    "hidden": "\u202e" * MAX_CHARS,
}


@pytest.mark.parametrize("name", SLOW)
def test_hostile_markdown_takes_a_bounded_time(name):
    start = time.perf_counter()
    render(SLOW[name])
    assert time.perf_counter() - start < 5  # some tenths of a second each, on a slow core alone


def test_a_usual_answer_takes_milliseconds():
    start = time.perf_counter()
    for _ in range(5):
        render(LONG)
    assert (time.perf_counter() - start) / 5 < 0.5


# fmt: off
SCRAPS = [
    "<", ">", '"', "'", "&", "script", "onerror=", "`", "```", "$", "$$", "\\(", "\\)", "\\[", "\\]", "[", "](",
    ")", "![", "javascript:", "https://a.b/", "|", "**", "*", "~~", "}", "x", "&amp;", "&#60;",
]
# fmt: on
SCRAPS += [
    "\n",
    "\n\n",
    "|-|\n",
    "# ",
    "> ",
    "- ",
    "1. ",
    " ",
    "    ",
    "\\frac{",
    "\\text{",
    "\\begin{align}",
    "\\end{align}",
]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(SCRAPS + HIDDEN), max_size=40).map("".join) | st.text(max_size=60))
def test_no_text_makes_anything_but_inert_html(text):
    check_inert(render(text).html)
