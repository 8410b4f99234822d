"""A pooling server that answers from a function of the token ids, and fails as it is told to."""

import asyncio
import json
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

Plan = Callable[[int, dict[str, Any]], tuple[int, dict[str, str], bytes] | None]


class PoolingStub:
    """plan(number, body): what to answer request `number` instead, None for the proper answer."""

    def __init__(self, score: Callable[[list[int]], list[float]], plan: Plan | None = None) -> None:
        self.score = score
        self.plan = plan
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.num_open = self.most_open = 0
        self.url = ""

    @asynccontextmanager
    async def serve(self):
        server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()

    async def _connection(self, reader, writer) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                request, *lines = head.decode().strip().split("\r\n")
                headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
                body = json.loads(await reader.readexactly(int(headers["content-length"])))
                status, extra, answer = await self._answer(request, headers, body)
                given = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
                writer.write(f"HTTP/1.1 {status} X\r\ncontent-length: {len(answer)}\r\n{given}\r\n".encode() + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def _answer(self, request, headers, body):
        assert request.startswith("POST /classify "), request
        self.requests.append(body)
        self.headers.append(headers)
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        await asyncio.sleep(0.01)
        self.num_open -= 1
        planned = self.plan(len(self.requests), body) if self.plan else None
        if planned is not None:
            return planned
        scores = [self.score(ids) for ids in body["input"]]
        rows = [{"index": i, "label": None, "probs": row, "num_classes": len(row)} for i, row in enumerate(scores)]
        return 200, {}, json.dumps({"object": "list", "data": rows[::-1]}).encode()
