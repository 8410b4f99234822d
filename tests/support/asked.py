"""Questions for a language-model judge, and judges that ask a server of the test."""

import contextlib
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

from judge.llm.config import LlmBackend
from judge.llm.judge import build_llm
from judge.protocol import Context, Question
from tests.support.tiny_groups import make_group

# Faults that can be made not to go away, and the reason under which a judge then abstains.
STUBBORN = {
    "server_error": {"logprobs": "endpoint_failed", "json": "endpoint_failed"},
    "refusal": {"logprobs": "refused", "json": "refused"},
    "empty_choices": {"logprobs": "empty", "json": "empty"},
    "garbage": {"logprobs": "no_label", "json": "unreadable"},
    "both_labels": {"logprobs": "no_label", "json": "both_labels"},
}


def quality(number: int, side: int) -> int:
    """From 1 to 19, and sometimes equal on both sides."""
    return 1 + (number * (7 if side else 11) + side * 3) % 19


def question(number: int, *, extra: str = "") -> Question:
    texts = [f"answer {number} {side} of quality {quality(number, side)} {extra}" for side in (0, 1)]
    return Question(group=make_group(texts, question=f"question {number}?"), wanted=((0, 1),))


def config(url: str, **changes) -> LlmBackend:
    return LlmBackend(**{"model": "tiny", "endpoint": url, "timeout_s": 2.0, "max_backoff_s": 0.2, **changes})


def llm(url: str, folder, *, salt: str = "salt", name: str = "judge", actor: int = 0, num_actors: int = 1, **changes):
    context = Context(store_dir=folder, salt=salt, name=name, actor=actor, num_actors=num_actors)
    return build_llm(config(url, **changes), context)


@contextlib.contextmanager
def process(module: str, *arguments: str) -> Iterator[str]:
    """A server in a process of its own; the URL that it prints."""
    running = subprocess.Popen([sys.executable, "-m", module, *arguments], stdout=subprocess.PIPE, text=True)
    try:
        yield running.stdout.readline().strip()
    finally:
        running.kill()
        running.wait()
        running.stdout.close()


def tally(url: str) -> dict[str, int]:
    with urllib.request.urlopen(f"{url}/tally", timeout=10) as response:
        return json.load(response)
