"""What an answer is checked against, and whether it is right: everything but running its code.

Each check is made once from the expected value, and raises DataError (bad_reference) if that is no use to it.
"""

import json
import math
from collections.abc import Callable
from typing import Any

import jsonschema
import referencing
import regex

from judge.verifier import numbers
from judge.verifier.config import VerifierBackend
from rollout.errors import DataError

Check = Callable[[str], str]
"""From an answer to what is wrong with it; "" where it is right."""
_SHOWN = 200


def check_of(config: VerifierBackend, expected: Any) -> Check:
    """The configured check against this value. Raises DataError (bad_reference)."""
    match config.check:
        case "exact":
            return _exact(expected)
        case "numeric":
            return _numeric(expected, config.tolerance)
        case "regex":
            return _regex(expected, config.timeout_s)
        case "json_schema":
            return _json_schema(expected)
        case "unit_tests":
            raise AssertionError("tests are run in the sandbox")


def extracted(text: str, config: VerifierBackend) -> str | None:
    """The first group of the pattern `extract` where it first matches, or the whole text; None where it does not.

    Raises DataError (check_timeout) where the search takes longer than timeout_s.
    """
    if config.extract is None:
        return text
    try:
        found = regex.search(config.extract, text, timeout=config.timeout_s)
    except TimeoutError as error:
        raise DataError("check_timeout", f"extract took longer than {config.timeout_s:g} s") from error
    return found[1] if found else None


def code_in(text: str) -> str:
    """The last fenced code block of the text, or the whole text where there is none."""
    blocks: list[str] = regex.findall(r"(?ms)^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```[ \t]*$", text)
    return blocks[-1] if blocks else text


def tests_of(expected: Any) -> str:
    """The tests as one Python text: a text as it is, a list of texts line by line. Raises DataError."""
    if isinstance(expected, list) and all(isinstance(line, str) for line in expected):
        expected = "\n".join(expected)
    if not isinstance(expected, str):
        raise DataError("bad_reference", f"got {type(expected).__name__}, expected Python text or a list of it")
    return expected


def _exact(expected: Any) -> Check:
    if isinstance(expected, bool) or not isinstance(expected, str | int | float):
        raise DataError("bad_reference", f"got {type(expected).__name__}, expected a text or a number")
    wanted = str(expected).strip()
    return lambda answer: "" if answer.strip() == wanted else f"got {answer.strip()[:_SHOWN]!r}"


def _numeric(expected: Any, tolerance: float) -> Check:
    text = expected if isinstance(expected, str) else repr(expected)
    target = None if isinstance(expected, bool) else numbers.read_number(text)
    if target is None:
        raise DataError("bad_reference", f"got {text[:_SHOWN]!r}, expected a number")
    wanted = target

    def check(answer: str) -> str:
        value = numbers.last_number(answer)
        if value is None:
            return "no number"
        return "" if math.isclose(value, wanted, rel_tol=tolerance, abs_tol=tolerance) else f"got {value!r}"

    return check


def _regex(expected: Any, timeout_s: float) -> Check:
    if not isinstance(expected, str):
        raise DataError("bad_reference", f"got {type(expected).__name__}, expected a regular expression")
    try:
        pattern = regex.compile(expected)
    except regex.error as error:
        raise DataError("bad_reference", f"{expected[:_SHOWN]!r} is no regular expression: {error}") from error

    def check(answer: str) -> str:
        try:
            return "" if pattern.fullmatch(answer.strip(), timeout=timeout_s) else "no match"
        except TimeoutError as error:  # the pattern's fault, not the answer's
            raise DataError("check_timeout", f"the pattern took longer than {timeout_s:g} s") from error

    return check


def _json_schema(expected: Any) -> Check:
    try:
        schema = json.loads(expected) if isinstance(expected, str) else expected
        kind = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
        kind.check_schema(schema)
        validator = kind(schema, registry=referencing.Registry())  # one of its own: nothing is fetched
    except (ValueError, TypeError, AttributeError, RecursionError, jsonschema.SchemaError) as error:
        raise DataError("bad_reference", f"no JSON schema: {str(error).splitlines()[0][:_SHOWN]}") from error

    def check(answer: str) -> str:
        try:
            value = json.loads(answer, parse_constant=_refuse)
            error = jsonschema.exceptions.best_match(validator.iter_errors(value))
        except referencing.exceptions.Unresolvable as problem:
            raise DataError("bad_reference", f"the schema refers to what it does not hold: {problem}") from problem
        except (ValueError, RecursionError) as problem:
            return f"no JSON: {str(problem)[:_SHOWN]}"
        return f"{error.json_path}: {error.message[:_SHOWN]}" if error else ""

    return check


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
