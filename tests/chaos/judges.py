"""Judges that can be told to misbehave while a run asks them: a function, and an endpoint of a language model."""

import asyncio
import hashlib
import json
import math
import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from judge.llm.frame import read_frames
from judge.llm.stub import Reply, completion, serve
from tests.support import tiny_judge

ORDERS = "RONDO_CHAOS_ORDERS"
# What leaves no trace in a run's files, because the call is made again or only takes longer; and what is counted.
HARMLESS_CALLS = ("late",)
COUNTED_CALLS = ("raises", "nan", "too few", "text")
HARMLESS_REQUESTS = ("late", "silent", "cut", "half a body", "server error", "rate limited")
COUNTED_REQUESTS = ("unreadable", "empty")


def score(prompts, completions, **columns):
    """Likes the letter e, in 20 ms a prompt, and misbehaves for as many calls as the orders say."""
    time.sleep(0.02)
    kind = _taken(os.environ.get(ORDERS))
    if kind == "late":
        time.sleep(1.0)
    elif kind == "raises":
        raise RuntimeError("the judge is out to lunch")
    elif kind is not None:
        return {"nan": [math.nan] * len(completions), "too few": [], "text": ["good"] * len(completions)}[kind]
    return tiny_judge.score(prompts, completions)


def give_orders(path: Path, kind: str, num: int) -> None:
    """The next num calls of `score`, in whatever process, misbehave in this way."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps({"kind": kind, "num": num}))
    with suppress(FileNotFoundError):
        path.with_suffix(".taken").unlink()
    os.replace(temporary, path)


def num_taken(path: Path) -> int:
    """How many calls have misbehaved since the last orders."""
    taken = path.with_suffix(".taken")
    return taken.stat().st_size if taken.exists() else 0


def _taken(name: str | None) -> str | None:
    if name is None or not Path(name).exists():
        return None
    orders = json.loads(Path(name).read_text())
    if num_taken(Path(name)) >= orders["num"]:
        return None
    with open(Path(name).with_suffix(".taken"), "ab") as file:
        file.write(b".")
    return str(orders["kind"])


class Endpoint:
    """Chat completions on a loopback port: prefers the text of the larger hash, and misbehaves when told to."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._server, self.url = self._loop.run_until_complete(serve(self._reply))
        self._kind, self._num_left = "", 0
        self.num_taken = 0
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def misbehave(self, kind: str, num: int) -> None:
        """Answer the next num requests in this way."""
        self._kind, self._num_left, self.num_taken = kind, num, 0

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._server.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _reply(self, path, body, headers) -> Reply:
        request = json.loads(body)
        parts, _ = read_frames(request["messages"][-1]["content"])
        fine = json.dumps(completion("A", top=_top(parts.get("answer_a", ""), parts.get("answer_b", "")))).encode()
        if self._num_left == 0 or "answer_a" not in parts:
            return Reply(body=fine)
        self._num_left -= 1
        self.num_taken += 1
        return {
            "late": Reply(body=fine, delay_s=1.0),
            "silent": Reply(body=b"", delay_s=None),
            "cut": Reply(body=fine[: len(fine) // 2], cut=True),
            "half a body": Reply(body=fine[: len(fine) // 2]),
            "server error": Reply(body=b"{}", status=500),
            "rate limited": Reply(body=b"{}", status=429, headers={"retry-after": "1"}),
            "unreadable": Reply(body=json.dumps(completion("?", top={"colour": -0.1, "green": -3.0})).encode()),
            "empty": Reply(body=json.dumps(completion("") | {"choices": []}).encode()),
        }[self._kind]


def _top(first: str, second: str) -> dict[str, float]:
    likes, dislikes = (int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) + 1 for text in (first, second))
    return {"A": math.log(likes / (likes + dislikes)), "B": math.log(dislikes / (likes + dislikes))}
