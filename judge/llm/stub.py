"""An HTTP server that answers chat completions by a function: light enough not to be what a measurement measures.

`python -m judge.llm.stub --latency-s 0.05` serves a model that prefers A, on a free port, which it prints.
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

CHAT = "/v1/chat/completions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One HTTP response, sent after delay_s; never at all where that is None. cut: the connection ends in mid-body."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float | None = 0.0
    cut: bool = False

    def wire(self) -> bytes:
        """The bytes as they are sent."""
        size = len(self.body) + (64 if self.cut else 0)
        head = {"content-type": "application/json", "content-length": str(size), **self.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        return f"HTTP/1.1 {self.status} Stub\r\n{lines}\r\n".encode() + self.body


Respond = Callable[[str, bytes, Mapping[str, str]], Reply]


class _Connection(asyncio.Protocol):
    """Requests one after the other, each with a Content-Length, as every client of chat completions sends them."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._received += data
        while (end := self._received.find(b"\r\n\r\n")) >= 0:
            lines = self._received[:end].decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
            size = int(headers.get("content-length", 0))
            if len(self._received) < end + 4 + size:
                return
            body = bytes(self._received[end + 4 : end + 4 + size])
            del self._received[: end + 4 + size]
            reply = self._respond(lines[0].split(" ")[1], body, headers)
            if reply.delay_s is not None:
                asyncio.get_running_loop().call_later(reply.delay_s, self._send, reply)

    def _send(self, reply: Reply) -> None:
        if self._transport is not None:
            self._transport.write(reply.wire())
            if reply.cut:
                self._transport.close()


async def serve(respond: Respond, *, port: int = 0) -> tuple[asyncio.Server, str]:
    """A running server on 127.0.0.1 and the base URL that clients take."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(respond), "127.0.0.1", port, backlog=4096)
    return server, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"


def completion(
    text: str,
    *,
    top: Mapping[str, float] | None = None,
    prompt_tokens: int = 100,
    finish_reason: str = "stop",
    refusal: str | None = None,
) -> dict[str, Any]:
    """A chat completion of one choice. top: log-probabilities of the first token's alternatives, in this order."""
    logprobs = None
    if top is not None:
        entries = [{"token": token, "logprob": logp, "bytes": None} for token, logp in top.items()]
        likeliest = list(top).index(max(top, key=top.__getitem__))
        logprobs = {"content": [{**entries[likeliest], "top_logprobs": entries}]}
    message = {"role": "assistant", "content": None if refusal else text, "refusal": refusal}
    num_tokens = max(1, len(text.split()))
    return {
        "id": "stub",
        "object": "chat.completion",
        "created": 0,
        "model": "stub",
        "choices": [{"index": 0, "message": message, "logprobs": logprobs, "finish_reason": finish_reason}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": num_tokens,
            "total_tokens": prompt_tokens + num_tokens,
        },
    }


async def _main(latency_s: float) -> None:
    body = json.dumps(completion("A", top={"A": -0.2, "B": -1.8, "The": -5.0})).encode()
    reply = Reply(body=body, delay_s=latency_s)
    server, url = await serve(lambda path, body, headers: reply)
    print(url, flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency-s", type=float, default=0.0)
    asyncio.run(_main(parser.parse_args().latency_s))
