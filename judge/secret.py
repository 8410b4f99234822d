"""Secrets lie in files or in the environment, never in the configuration, and are never shown."""

from pathlib import Path

from rollout.errors import UsageError


def read_secret_file(path: str, *, setting: str) -> str:
    """What a file holds, without the space around it; setting is what named it. Raises UsageError, which shows nothing
    of it."""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UsageError(f"{setting} {path} cannot be read: {reason}; it is to hold the secret alone") from error
