"""The endpoint's key: from the environment or a file, never from the configuration, and never shown."""

import ipaddress
import os
from urllib.parse import urlsplit

from judge.llm.config import LlmBackend
from judge.secret import read_secret_file
from rollout.errors import UsageError

OPENAI = "https://api.openai.com/v1"
_DEFAULT_ENV = "OPENAI_API_KEY"
NO_KEY = "EMPTY"  # what local servers without a key are sent


def read_key(config: LlmBackend) -> str:
    """The key, or EMPTY for a server of this machine that has none. Raises UsageError, which shows nothing of it."""
    if config.api_key_file is not None:
        key = read_secret_file(config.api_key_file, setting="judge.api_key_file")
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
