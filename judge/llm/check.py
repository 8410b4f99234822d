"""What can be refused about a language-model judge without reaching its endpoint."""

from urllib.parse import urlsplit

from judge.llm.config import LlmBackend
from judge.llm.request import make_request
from judge.llm.rubric import load_rubric
from judge.llm.secret import read_key
from rollout.errors import UsageError

_OURS = ("model", "messages", "stream", "n")


def check_llm(config: LlmBackend) -> None:
    """Raise UsageError, in one line, if endpoint, key, rubric or further fields cannot work."""
    check_endpoint(config.endpoint)
    rubric = load_rubric(config.rubric, style=config.style, method=config.method)
    read_key(config)
    taken = [name for name in _OURS if name in config.extra_body]
    if taken:
        raise UsageError(f"judge.extra_body holds {taken}, which the judge sets itself; leave these fields out")
    try:
        request = make_request(config, rubric, [])
    except (TypeError, ValueError) as error:
        raise UsageError(f"judge.extra_body cannot be sent as JSON: {error}; mend it") from error
    budget = config.budget
    if (budget.tokens or budget.money) and not request.max_completion_tokens:
        raise UsageError(
            "judge.extra_body leaves the length of a reply open, and judge.budget cannot be kept; "
            "give max_tokens or max_completion_tokens there"
        )


def check_endpoint(endpoint: str | None) -> None:
    """Raise UsageError unless it is a plain base URL, or none."""
    if endpoint is None:
        return
    parts = urlsplit(endpoint)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(
            "judge.endpoint carries a password, query or fragment; give the plain base URL, "
            "and the key by judge.api_key_env or judge.api_key_file"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"judge.endpoint is {endpoint!r}, expected a base URL, for instance http://127.0.0.1:8000/v1")
