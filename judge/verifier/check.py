"""What can be refused about a verifier before anything is judged."""

import os

import regex

from judge.verifier.answers import check_of, tests_of
from judge.verifier.config import VerifierBackend
from rollout.errors import DataError, UsageError


def check_verifier(config: VerifierBackend) -> None:
    """Raise UsageError if the verifier cannot work as configured."""
    if config.extract is not None:
        try:
            groups = regex.compile(config.extract).groups
        except regex.error as error:
            raise UsageError(f"judge.extract {config.extract!r} is no regular expression: {error}; mend it") from error
        if groups < 1:
            raise UsageError(
                f"judge.extract {config.extract!r} has no group; put what is the answer in (brackets), such as "
                "'answer is (.*)'"
            )
    if config.check == "unit_tests" and os.uname().sysname != "Linux":
        raise UsageError(f"judge.check unit_tests needs Linux for its sandbox, got {os.uname().sysname}")
    if config.expected is not None:
        try:
            if config.check == "unit_tests":
                compile(tests_of(config.expected), "judge.expected", "exec")
            else:
                check_of(config, config.expected)
        except (DataError, SyntaxError, ValueError) as error:
            raise UsageError(f"judge.expected is of no use to check: {config.check}: {error}; mend it") from error
