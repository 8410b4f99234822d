"""What two answers do not share is marked in both, and nothing is lost from either."""

import re
import time
from html import unescape

from hypothesis import given, settings
from hypothesis import strategies as st

from judge.human.page.difference import MAX_CHARS, difference

TAGS = re.compile(r"</?(?:del|ins)>")


def plain(html: str) -> str:
    return unescape(TAGS.sub("", html))


def test_words_that_differ_are_marked_on_their_own_side():
    found = difference("The grey bridge stood still.", "The brown bridge stood quite still.")
    assert found.left == "The <del>grey</del> bridge stood still."
    assert found.right == "The <ins>brown</ins> bridge stood <ins>quite</ins> still."
    assert found.level == "words"


def test_equal_texts_have_no_marks():
    assert difference("a b\nc", "a b\nc").left == "a b\nc"


def test_markup_in_texts_is_escaped():
    found = difference("<del>a</del> & b", "<script>alert(1)</script>")
    assert plain(found.left) == "<del>a</del> & b"
    assert "<script>" not in found.right
    assert "&lt;" in found.right


def test_indentation_counts():
    assert "<ins>" in difference("if x:\n  y", "if x:\n    y").right


def test_scripts_without_spaces_are_compared_by_character():
    assert difference("東京は大きい", "東京は小さい").left == "東京は<del>大き</del>い"


def test_hidden_characters_are_marked_in_both():
    found = difference("a \u202e b", "a \u200b b")
    assert found.left == 'a <del><span class="hidden-char">U+202E</span></del> b'
    assert "U+200B" in found.right


def test_long_and_repetitive_texts_are_compared_by_lines_or_not_at_all():
    lines = "".join(f"{i}: a a a a a a a a a a\n" for i in range(300))
    by_line = difference(lines, lines.replace("17:", "x:"))
    assert by_line.level == "lines"
    assert by_line.left.count("<del>") == 3
    assert difference("a\n" * 9000, "a\n" * 8000 + "b\n" * 900).level == "none"


def test_time_is_bounded_and_a_megabyte_is_cut():
    start = time.perf_counter()
    for left, right in (
        ("ab " * 400_000, "ba " * 400_000),
        ("a" * 1_000_000, "b" * 1_000_000),
        ("x y z " * 3000, "z y " * 3000),
    ):
        assert difference(left, right).is_cut == (len(left) > MAX_CHARS)
    mixed = " ".join(f"w{i % 97} v{i % 89}" for i in range(1500)), " ".join(f"v{i % 83} w{i % 79}" for i in range(1500))
    difference(*mixed)
    assert time.perf_counter() - start < 5


TEXT = st.lists(st.sampled_from(["a", "b", "word", " ", "  ", "\n", ".", "<", "&", "\t", "é", "日"]), max_size=40).map(
    "".join
)


@settings(max_examples=100, deadline=None)
@given(TEXT, TEXT)
def test_without_its_marks_each_side_is_its_text(left, right):
    found = difference(left, right)
    assert plain(found.left) == left
    assert plain(found.right) == right
    assert "<ins>" not in found.left
    assert "<del>" not in found.right
