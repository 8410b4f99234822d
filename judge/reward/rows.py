"""Many rows through one classifier: encoded, sorted by length, in batches, off the event loop."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from judge.reward.config import RewardModelBackend
from judge.reward.encoding import RowEncoder
from judge.reward.http import PoolingServer
from judge.reward.source import Logits, ModelBackend, endpoint_of, find_folder
from judge.types import JudgeReport
from rollout.errors import DataError
from rollout.types import Message, TokenIds

T = TypeVar("T")
MakeRow = Callable[[RowEncoder], TokenIds]


class ClassifierRows:
    """A classifier with its tokenizer: here, one forward pass at a time on a thread, or at a server.

    Encoding has a thread of its own, so that one call's rows are encoded while another's are scored.
    """

    def __init__(self, config: ModelBackend) -> None:
        self._config = config
        self._encoding = ThreadPoolExecutor(max_workers=1, thread_name_prefix="encode")
        self._scoring = ThreadPoolExecutor(max_workers=1, thread_name_prefix="score")
        self._encoder: RowEncoder | None = None
        self._local: Any = None
        self._server: PoolingServer | None = None
        self._counts: Counter[str] = Counter()
        self._notices: list[str] = []

    async def start(self) -> None:
        """Load, or reach the server. Raises UsageError if the model cannot be used."""
        if self._encoder is not None:
            return
        encoder = await _run(self._encoding, RowEncoder, self._config)
        if isinstance(self._config, RewardModelBackend) and endpoint_of(self._config) is not None:
            server = PoolingServer(self._config)
            await server.start(encoder.dialogue([Message(role="user", content="Hello")]))
            self._server = server
        else:
            self._local = await _run(self._scoring, _load, self._config, encoder)
        self._encoder = encoder
        if encoder.notice:
            self._notices.append(encoder.notice)

    async def close(self) -> None:
        """Let the model or the connections go."""
        if self._server is not None:
            await self._server.close()
        self._encoder = self._local = self._server = None

    def report(self) -> JudgeReport:
        """Rows and tokens scored since the last report; requests and retries, where there is a server."""
        counts, notices = Counter(self._counts), tuple(self._notices)
        self._counts.clear()
        self._notices.clear()
        if self._server is not None:
            counts += self._server.counts
            self._server.counts.clear()
        return JudgeReport(counts=dict(counts), notices=notices)

    async def logits(self, makers: Sequence[MakeRow]) -> list[Logits | DataError]:
        """Raw logits of each row that a maker makes with the encoder, or why there are none; in the order given."""
        await self.start()
        rows = await _run(self._encoding, _encode, self._encoder, makers)
        found: list[Logits | DataError] = [row if isinstance(row, DataError) else [] for row in rows]
        by_place = {place: row for place, row in enumerate(rows) if not isinstance(row, DataError)}
        # Longest first: a batch that does not fit shows at once, and padding is little.
        order = sorted(by_place, key=lambda place: -len(by_place[place]))
        size = self._config.batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]

        async def fill(batch: Sequence[int]) -> None:
            answers = await self._forward([by_place[place] for place in batch])
            for place, answer in zip(batch, answers, strict=True):
                found[place] = answer

        await asyncio.gather(*map(fill, batches))
        self._counts.update(rows=len(order), row_tokens=sum(map(len, by_place.values())))
        return found

    async def _forward(self, rows: Sequence[TokenIds]) -> list[Logits | DataError]:
        if self._server is None:
            return await _run(self._scoring, self._local.logits, rows)
        return await self._server.logits(rows)


async def _run(thread: ThreadPoolExecutor, function: Callable[..., T], *args: Any) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, function, *args)


def _load(config: ModelBackend, encoder: RowEncoder) -> Any:
    from judge.reward.model import LocalClassifier

    return LocalClassifier(
        find_folder(config.model),
        tokenizer=encoder.tokenizer,
        label=config.label,
        dtype=config.dtype,
        device=config.device,
    )


def _encode(encoder: RowEncoder, makers: Sequence[MakeRow]) -> list[TokenIds | DataError]:
    return [_row(encoder, make) for make in makers]


def _row(encoder: RowEncoder, make: MakeRow) -> TokenIds | DataError:
    try:
        return make(encoder)
    except DataError as error:
        return error
