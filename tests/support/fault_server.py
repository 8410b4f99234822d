"""A chat-completions endpoint that fails on purpose, by the hash of each request, and keeps its own account.

It prefers the answer of higher quality: answers say "quality N". P(first place) = q_first / (q_first + q_second), bent
a little towards the first place. A text that contains "stubborn KIND" makes every request about it fail in that way.
`python -m tests.support.fault_server` prints its base URL; GET /v1/tally gives the account.
"""

import argparse
import asyncio
import email.utils
import hashlib
import json
import math
import re
from collections import Counter

from judge.llm.frame import read_frames
from judge.llm.stub import Reply, completion, serve

KINDS = (
    "rate_limited",
    "rate_limited_by_date",
    "server_error",
    "hang",
    "truncated_json",
    "cut_connection",
    "refusal",
    "empty_choices",
    "both_labels",
    "garbage",
    "wrong_order",
)
BIAS = 0.1
_STUBBORN = re.compile(rb"stubborn (\w+)")
_QUALITY = re.compile(r"quality (\d+)")


def preference(first: str, second: str) -> float:
    """Probability that the server gives the answer in the first place."""
    left, right = (int(_QUALITY.search(text).group(1)) for text in (first, second))
    return min(0.99, left / (left + right) + BIAS)


class FaultServer:
    """Answers requests and counts. one_in: how many requests have one that fails at its first attempt."""

    def __init__(self, *, one_in: int = 5, retry_after_s: str = "1") -> None:
        self._one_in, self._retry_after_s = one_in, retry_after_s
        self.tally: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()
        self.bodies: list[bytes] | None = None

    def __call__(self, path, body, headers) -> Reply:
        if path == "/v1/tally":
            account = {**self.tally, "answered_twice": sum(count > 1 for count in self.answered.values())}
            return Reply(body=json.dumps(account).encode())
        if self.bodies is not None:
            self.bodies.append(body)
        self.tally["requests"] += 1
        digest = hashlib.sha256(body).hexdigest()
        self._attempts[digest] += 1
        kind = self._kind(body, digest)
        self.tally[kind or "fine"] += 1
        return self._reply(kind, json.loads(body), digest, len(body))

    def _kind(self, body: bytes, digest: str) -> str | None:
        stubborn = _STUBBORN.search(body)
        if stubborn:
            return stubborn.group(1).decode()
        number = int(digest[:12], 16)
        if number % self._one_in:
            return None
        kind = KINDS[number // self._one_in % len(KINDS)]
        return kind if self._attempts[digest] == 1 or kind == "wrong_order" else None

    def _reply(self, kind: str | None, request: dict, digest: str, size: int) -> Reply:
        match kind:
            case "rate_limited":
                return Reply(
                    body=b'{"error": {"message": "slow down"}}',
                    status=429,
                    headers={"retry-after": self._retry_after_s},
                )
            case "rate_limited_by_date":
                date = email.utils.formatdate(0, usegmt=True)
                return Reply(body=b"{}", status=429, headers={"retry-after": date})
            case "server_error":
                return Reply(body=b'{"error": {"message": "out of order"}}', status=500)
            case "hang":
                return Reply(body=b"", delay_s=None)
        found = self._completion(kind, request, digest)
        found["usage"] = {"prompt_tokens": size // 4, "completion_tokens": 1 + int(digest[:2], 16) % 7}
        num_tokens = sum(found["usage"].values())
        body = json.dumps(found).encode()
        if kind in ("truncated_json", "cut_connection"):
            self.tally["tokens_unreported"] += num_tokens
            return Reply(body=body[: len(body) // 2], cut=kind == "cut_connection")
        self.tally["tokens"] += num_tokens
        if kind in (None, "wrong_order") and len(request["messages"]) > 1:  # one message: is anyone there?
            self.answered[digest] += 1
        return Reply(body=body)

    def _completion(self, kind: str | None, request: dict, digest: str) -> dict:
        unusable = {
            "refusal": completion("", refusal="I would rather not say."),
            "empty_choices": completion("") | {"choices": []},
            "both_labels": completion('{"verdict": "A", "verdict": "B"}', top={"Both": -0.1, "Neither": -3.0}),
            "garbage": completion("colourless green ideas", top={"colour": -0.1, "green": -3.0}),
        }
        if kind in unusable:
            return unusable[kind]
        parts, _ = read_frames(request["messages"][-1]["content"])
        if "answer" in parts:
            return completion(
                json.dumps({"reasoning": "so", "score": 1 + int(_QUALITY.search(parts["answer"]).group(1)) % 10})
            )
        if "answer_a" not in parts:  # the judge's first question, whether anything answers
            return completion("Yes", top={"Yes": -0.1, "No": -3.0})
        p_first = preference(parts["answer_a"], parts["answer_b"])
        if "response_format" in request:
            fair = p_first - BIAS
            verdict = "A" if fair > 0.5 else "B" if fair < 0.5 else "tie"
            return completion(json.dumps({"reasoning": f"digest {digest[:4]}", "verdict": verdict}))
        # Spread over spellings, beside a token that is no label.
        top = {"A": 0.75 * p_first, " A": 0.15 * p_first, "B": 0.9 * (1 - p_first), "The": 0.1}
        order = sorted(top, key=top.get, reverse=kind != "wrong_order")
        return completion("A", top={token: math.log(top[token]) for token in order})


async def _main(one_in: int, retry_after_s: str) -> None:
    server, url = await serve(FaultServer(one_in=one_in, retry_after_s=retry_after_s))
    print(url, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--one-in", type=int, default=5)
    parser.add_argument("--retry-after-s", default="1")
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.one_in, arguments.retry_after_s))
