"""The endpoint's key: from the environment or a file, never from the configuration, and never shown."""

import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

from judge.llm.config import LlmBackend
from rollout.errors import UsageError

OPENAI = "https://api.openai.com/v1"
_DEFAULT_ENV = "OPENAI_API_KEY"
NO_KEY = "EMPTY"  # what local servers without a key are sent


def read_key(config: LlmBackend) -> str:
    """The key, or EMPTY for a server of this machine that has none. Raises UsageError, which shows nothing of it."""
    if config.api_key_file is not None:
        try:
            key = Path(config.api_key_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise UsageError(
                f"judge.api_key_file {config.api_key_file} cannot be read: {reason}; it is to hold the key alone"
            ) from error
        return _usable(key, f"judge.api_key_file {config.api_key_file}")
    name = config.api_key_env or _DEFAULT_ENV
    key = os.environ.get(name, "").strip()
    if key:
        return _usable(key, f"environment variable {name}")
    if is_loopback(config.endpoint) and config.api_key_env is None:
        return NO_KEY
    raise UsageError(
        f"the key of judge.endpoint {config.endpoint or OPENAI} is missing: environment variable {name} "
        "is empty; set it, or judge.api_key_file (to any word where the server asks for none)"
    )


def is_loopback(endpoint: str | None) -> bool:
    """Whether the endpoint is on this machine."""
    host = urlsplit(endpoint or OPENAI).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def redact(text: str, key: str) -> str:
    """The text without the key, which endpoints are known to repeat in their errors."""
    return text.replace(key, "(key)") if key != NO_KEY else text


def _usable(key: str, where: str) -> str:
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise UsageError(f"{where} holds no key: expected one word of ASCII characters; put the key alone there")
    return key
