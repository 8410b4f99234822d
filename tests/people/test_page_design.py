"""What the page's files promise: nothing inline, colours that everybody can read, figures that read well."""

import re
from pathlib import Path

import pytest

from judge.human.page.shell import csrf_field, duration, share, when

PAGE = Path(__file__).parents[2] / "judge/human/page"


def test_templates_and_scripts_keep_the_policy():
    for file in PAGE.glob("templates/*.html"):
        html = file.read_text()
        assert not re.search(r"\sstyle\s*=|<style|\son[a-z]+\s*=|javascript:", html), file
        assert not re.search(r"<script(?![^>]*\ssrc=)", html), file
        assert not re.search(r"(?:src|href|action)\s*=\s*[\"'](?:https?:)?//", html), file
        assert not re.search(r"\|\s*safe\b", html), file
        for form in re.findall(r'<form[^>]*method="post".*?</form>', html, re.DOTALL):
            is_open = re.search(r'action="/(?:sign-in|invitation)', form)
            assert is_open or "csrf_field(csrf)" in form, (file, form)
    for file in (*PAGE.glob("static/*.css"), *PAGE.glob("static/*.js")):
        assert not re.search(r"@import|https?://|\beval\(|new Function", file.read_text()), file


def luminance(colour):
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    """WCAG 2.2, relative luminance."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_of_aa(theme):
    css = (PAGE / "static/base.css").read_text()
    found = re.findall(r"--([a-z-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);", css)
    colours = {name: pair[theme] for name, *pair in found}
    grounds = ["paper", "surface", "sunken"]
    text = [(ink, ground) for ink in ("ink", "soft", "accent", "accent-strong") for ground in grounds]
    text += [(state, ground) for state in ("good", "warn", "bad", "left", "right") for ground in grounds]
    text += [(name, f"{name}-wash") for name in ("good", "warn", "bad", "left", "right", "accent")]
    text += [("ink", f"{name}-wash") for name in ("good", "warn", "bad", "left", "right", "accent")]
    text += [("on-accent", "accent"), ("on-accent", "accent-strong"), ("paper", "ink")]
    low = {pair: round(contrast(*(colours[name] for name in pair)), 2) for pair in text}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 4.5} == {}
    parts = [(name, ground) for name in ("edge", "focus") for ground in grounds]
    low = {pair: round(contrast(*(colours[name] for name in pair)), 2) for pair in parts}
    assert {pair: ratio for pair, ratio in low.items() if ratio < 3} == {}


def test_the_measure_of_contrast_is_right():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.01)


def test_figures_read_well():
    shown = [duration(seconds) for seconds in (None, 0.24, 9.9, 59.6, 125, 7_260, 200_000, 3_600)]
    assert shown == ["–", "0.2 s", "9.9 s", "1 min", "2 min 5 s", "2 h 1 min", "2 d 7 h", "1 h"]
    assert [share(None), share(0.666)] == ["–", "67 %"]
    assert when(0.0) == '<time datetime="1970-01-01T00:00:00Z">1970-01-01 00:00 UTC</time>'
    assert csrf_field('"><b>') == '<input type="hidden" name="csrf" value="&#34;&gt;&lt;b&gt;">'
