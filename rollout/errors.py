"""Every error that Rondo raises on purpose.

    RondoError
    |- UsageError       bad configuration or input: exit code 2, one line, nothing half-made left behind
    |- IntegrityError   a file is truncated, altered or missing: named, never read around
    |- DataError        one item is unusable: counted by its reason, the run goes on
    |- InfraError       a machine, process or connection failed: retried elsewhere, bounded
    |- DiskFullError    no room to write, here or elsewhere: the run ends, and can be resumed
    '- Stopped          stopped on purpose and resumable: exit code 3

Messages say what, got, expected, and what to do. Errors cross process borders by pickling, so each one
keeps its constructor's arguments in `args`.
"""

import errno


class RondoError(Exception):
    """Base of all errors raised on purpose."""


class UsageError(RondoError):
    """The configuration or an input is wrong; the user can mend it."""


class IntegrityError(RondoError):
    """A file of the run directory is not what was committed."""


class DataError(RondoError):
    """One item cannot be used; `reason` is the key it is counted under."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class InfraError(RondoError):
    """A machine, process or connection failed; the work may be tried elsewhere."""


class Stopped(RondoError):
    """The run was stopped on purpose and can be resumed."""


class DiskFullError(RondoError):
    """There is no room left to write, which another machine would not mend; once there is, the run can be resumed."""


def is_disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of room or of quota; libraries written in Rust tell so in their text alone."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"os error {errno.ENOSPC})" in str(error) or f"os error {errno.EDQUOT})" in str(error)
