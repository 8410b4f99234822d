"""Answers that are right or wrong: each check, and what is no answer's fault."""

import asyncio
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from judge.backend import build
from judge.check import check_judge
from judge.protocol import Context
from judge.verifier import numbers
from judge.verifier.answers import code_in
from judge.verifier.config import VerifierBackend
from judge.verifier.judge import build_verifier
from rollout.errors import UsageError
from tests.support.tiny_groups import make_group

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def scored(texts, check, reference=None, **settings):
    """Values, or reasons."""
    columns = {} if reference is None else {"reference": reference}
    judge = build_verifier(VerifierBackend(check=check, **settings))
    ((scores),) = asyncio.run(judge.score([make_group(texts, **columns)]))
    assert all(score.source == "verifier" and score.judge_id == judge.judge_id for score in scores)
    assert all(bool(score.evidence) == (score.value != 1.0) for score in scores)
    return [score.reason if score.value is None else score.value for score in scores]


@pytest.mark.parametrize(
    ("check", "reference", "right", "wrong"),
    [
        ("exact", "Paris", [" Paris\n"], ["paris", "Paris.", ""]),
        ("exact", 7, ["7"], ["7.0"]),
        (
            "numeric",
            1234.5,
            ["so it is 1,234.5", "1234.5.", "$1,234.50", "2 then 1.2345e3"],
            ["1234.6", "none", "1234.5 or 2"],
        ),
        ("numeric", "3/4", ["0.75", "3/4", "75%", " 6 / 8 "], ["3", "4", "75", "3/0"]),
        ("numeric", "-5", ["-5", "x=-5", "\N{MINUS SIGN}5", "- 5"], ["5", "10-5"]),
        ("regex", r"a+b?", ["aaab", " a "], ["xaab", "ab c"]),
        (
            "json_schema",
            SCHEMA,
            ['{"n": 1}', ' {"n": 2, "m": []} '],
            ['{"n": "1"}', "{}", "n: 1", '{"n": NaN}', "[" * 100_000],
        ),
        ("json_schema", json.dumps(SCHEMA), ['{"n": 1}'], ["[]"]),
    ],
)
def test_right_is_one_and_wrong_is_zero(check, reference, right, wrong):
    assert scored([*right, *wrong], check, reference) == [1.0] * len(right) + [0.0] * len(wrong)


@pytest.mark.parametrize(
    ("check", "reference"),
    [
        ("exact", ["a"]),
        ("exact", True),
        ("numeric", "about 5"),
        ("numeric", True),
        ("numeric", 10**400),
        ("regex", "(unclosed"),
        ("regex", 5),
        ("json_schema", {"type": "nothing"}),
        ("json_schema", "{not json"),
        ("json_schema", {"$ref": "http://127.0.0.1:9/schema.json"}),
        ("unit_tests", 5),
        ("unit_tests", "assert f( =="),
        ("unit_tests", ""),
        ("unit_tests", "def check(candidate):\n    assert candidate() == 1"),
        ("unit_tests", "def test_it(fixture):\n    assert fixture"),
    ],
)
def test_a_bad_reference_is_an_abstention_and_never_a_zero(check, reference):
    assert scored(["{}"], check, reference) == ["bad_reference"]


@pytest.mark.parametrize("check", ["exact", "numeric", "regex", "json_schema", "unit_tests"])
def test_a_missing_column_is_an_abstention(check):
    assert scored(["1", "2"], check) == ["no_reference"] * 2
    assert scored(["1"], check, "1", column="another") == ["no_reference"]


def test_the_first_group_of_the_pattern_is_the_answer():
    texts = ["I think 3 or 4. Answer: 12 (not 13)", "12", "Answer: 13"]
    assert scored(texts, "numeric", 12, extract=r"Answer: (\S+)") == [1.0, 0.0, 0.0]


def test_a_value_for_every_prompt_needs_no_column():
    assert scored(["yes", "no"], "exact", expected="yes") == [1.0, 0.0]


def test_the_tolerance_is_relative_and_absolute():
    assert scored(["100.9", "101.2", "99"], "numeric", 100, tolerance=0.01) == [1.0, 0.0, 1.0]
    assert scored(["0.0099", "0.011"], "numeric", 0, tolerance=0.01) == [1.0, 0.0]


def test_a_pattern_that_does_not_end_abstains_within_its_time():
    start = time.monotonic()
    assert scored(["a" * 40 + "!"], "regex", r"(a|aa)+$", timeout_s=0.2) in (["check_timeout"], [0.0])
    assert scored(["x" * 5000], "exact", "x", extract=r"(x+x+)+y", timeout_s=0.2) in (["check_timeout"], [0.0])
    assert time.monotonic() - start < 5


@given(value=st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_is_read_as_it_was_written(value):
    assert numbers.read_number(repr(value)) == value
    assert numbers.last_number(f"It is {value!r}, I think.") == value


@given(value=st.integers(-(10**15), 10**15))
def test_thousands_may_be_grouped(value):
    assert numbers.read_number(f"{value:,}") == value


@given(text=st.text(max_size=30))
def test_any_text_is_read_or_is_no_number(text):
    numbers.last_number(text)
    numbers.read_number(text)


@pytest.mark.parametrize("text", ["", "1e999", "1/0", "5 apples", "--5", "1,23", "five"])
def test_what_is_no_number_is_none(text):
    assert numbers.read_number(text) is None


def test_a_long_text_is_searched_in_no_time():
    start = time.process_time()
    for text in ("1," * 500_000, "1" * 1_000_000, "1/" * 500_000, "-" * 1_000_000, " " * 1_000_000):
        numbers.last_number(text)
    assert time.process_time() - start < 5


def test_the_last_block_of_code_is_the_answer():
    text = "First\n```python\na = 1\n```\nor better\n```\nb = 2\n```\nDone."
    assert code_in(text) == "b = 2\n"
    assert code_in("def f(): pass") == "def f(): pass"


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"check": "exact", "extract": "(x"}, "no regular expression"),
        ({"check": "exact", "extract": "x"}, "no group"),
        ({"check": "numeric", "expected": "many"}, "judge.expected is of no use"),
        ({"check": "unit_tests", "expected": "assert ("}, "judge.expected is of no use"),
    ],
)
def test_what_cannot_work_is_refused(settings, complaint):
    with pytest.raises(UsageError, match=complaint):
        check_judge(VerifierBackend(**settings))


def test_the_id_names_what_decides_and_nothing_else(tmp_path):
    one = VerifierBackend(check="exact")
    assert build(one, Context(store_dir=tmp_path, salt="s")).judge_id.startswith("verifier:exact@")
    assert build_verifier(one).judge_id == build_verifier(VerifierBackend(check="exact", timeout_s=1.0)).judge_id
    assert build_verifier(one).judge_id != build_verifier(VerifierBackend(check="exact", column="x")).judge_id
