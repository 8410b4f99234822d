"""What was paid for: an append-only store of verdicts and spending, shared by all judges and actors of a run.

Each process appends JSON lines to a file of its own, `<judge>-<actor>-<counter>.jsonl`, and reads all of them. A line
is in the file before its verdict is used, so that a killed process loses none, and on the disk before a chunk is done.
A last line without its end was cut off and is passed over. Only the place of an answer is held in memory.
"""

import asyncio
import json
import os
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rollout.errors import InfraError

_FSYNC_PAUSE_S = 0.1
_LINE_BYTES = 8192
_OFFSET_BITS = 44


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What was spent: HTTP requests, tokens of prompt and completion, and money."""

    requests: int = 0
    tokens: int = 0
    money: float = 0.0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(
            requests=self.requests + other.requests,
            tokens=self.tokens + other.tokens,
            money=self.money + other.money,
        )


@dataclass(kw_only=True)
class _File:
    """A file that is read along; owner is the judge and the actor that write it."""

    path: Path
    offset: int = 0
    owner: tuple[str, int] | None = None
    handle: int = -1


@dataclass(kw_only=True)
class _Own:
    """The file of this process, and how far it is on the disk."""

    handle: int
    number: int
    dirty: bool = False
    flusher: asyncio.Task[None] | None = None
    failed: list[OSError] = field(default_factory=list)


class VerdictStore:
    """Answers by the hash of their request, and what each judge's actors have spent."""

    def __init__(self, folder: Path, *, judge: str, actor: int) -> None:
        self._folder, self._judge, self._actor = folder, judge, actor
        self._files: list[_File] = []
        self._known: set[Path] = set()
        self._places: dict[bytes, int] = {}
        self._spent: defaultdict[tuple[str, int], Cost] = defaultdict(Cost)
        self._own: _Own | None = None
        self.num_unreadable: Counter[str] = Counter()

    def refresh(self) -> None:
        """Read what was written since the last time, by any process."""
        for path in sorted(self._folder.glob("*.jsonl")):
            if path not in self._known:
                self._known.add(path)
                self._files.append(_File(path=path))
        for number, file in enumerate(self._files):
            self._read(number, file)

    def get(self, key: str) -> Any | None:
        """The answer to this request, as it was put, or None."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        file = self._files[place >> _OFFSET_BITS]
        if file.handle < 0:
            file.handle = os.open(file.path, os.O_RDONLY)
        offset, line = place & ((1 << _OFFSET_BITS) - 1), b""
        while not line.endswith(b"\n"):
            more = os.pread(file.handle, _LINE_BYTES, offset + len(line))
            end = more.find(b"\n")
            line += more if end < 0 else more[: end + 1]
            if not more:
                return None  # the file was shortened behind our back: the answer is gone
        return json.loads(line)["answer"]

    def put(self, key: str, answer: Mapping[str, Any], cost: Cost) -> None:
        """Keep an answer and what it cost."""
        self._append({"key": key, "answer": answer, "cost": asdict(cost)})

    def spend(self, cost: Cost) -> None:
        """Remember what an attempt cost that brought no answer."""
        self._append({"cost": asdict(cost)})

    def spent(self) -> dict[int, Cost]:
        """What this judge has spent in the run so far, by actor."""
        return {actor: cost for (judge, actor), cost in self._spent.items() if judge == self._judge}

    async def flush(self) -> None:
        """Wait until all that was put is on the disk. Raises InfraError if it cannot be written."""
        own = self._own
        while own is not None and (own.dirty or (own.flusher is not None and not own.flusher.done())):
            await asyncio.shield(self._flusher(own))
        if own is not None and own.failed:
            raise InfraError(f"{self._folder} cannot be written: {own.failed.pop()}; free space there")

    async def close(self) -> None:
        """Flush, and let the files go."""
        await self.flush()
        for handle in [file.handle for file in self._files] + ([self._own.handle] if self._own else []):
            if handle >= 0:
                os.close(handle)
        self._own = None
        for file in self._files:
            file.handle = -1

    def _append(self, line: Mapping[str, Any]) -> None:
        data = json.dumps(line, separators=(",", ":"), ensure_ascii=True).encode() + b"\n"
        try:
            own = self._own or self._open()
            written = 0
            while written < len(data):
                written += os.write(own.handle, data[written:])
        except OSError as error:
            self._own = None  # nothing is written after half a line
            raise InfraError(f"{self._folder} cannot be written: {error}; free space there") from error
        file = self._files[own.number]
        self._take(line, own.number, file)
        file.offset += len(data)
        own.dirty = True
        self._flusher(own)

    def _flusher(self, own: _Own) -> asyncio.Task[None]:
        if own.flusher is None or own.flusher.done():
            own.flusher = asyncio.get_running_loop().create_task(_flush(own))
        return own.flusher

    def _open(self) -> _Own:
        """A file of a new name, so that nothing is ever written after a line that was cut off."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{self._judge.replace('/', '.')}-{self._actor}"
        number = len(list(self._folder.glob(f"{name}-*.jsonl")))
        while True:
            path = self._folder / f"{name}-{number:04d}.jsonl"
            try:
                handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND, 0o644)
                break
            except FileExistsError:
                number += 1
        directory = os.open(self._folder, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)
        header = json.dumps({"judge": self._judge, "actor": self._actor}).encode() + b"\n"
        os.write(handle, header)
        self._files.append(_File(path=path, offset=len(header), owner=(self._judge, self._actor)))
        self._known.add(path)
        self._own = _Own(handle=handle, number=len(self._files) - 1)
        return self._own

    def _read(self, number: int, file: _File) -> None:
        with open(file.path, "rb") as opened:
            if os.fstat(opened.fileno()).st_size <= file.offset:
                return
            opened.seek(file.offset)
            for line in opened:
                if not line.endswith(b"\n"):
                    break
                try:
                    self._take(json.loads(line), number, file)
                except (ValueError, KeyError, TypeError):
                    self.num_unreadable[file.path.name] += 1
                file.offset += len(line)

    def _take(self, line: Mapping[str, Any], number: int, file: _File) -> None:
        if file.owner is None:
            file.owner = (line["judge"], line["actor"])
            return
        self._spent[file.owner] += Cost(**line["cost"])
        if "key" in line:
            self._places[bytes.fromhex(line["key"])] = number << _OFFSET_BITS | file.offset


async def _flush(own: _Own) -> None:
    """One fsync for all that was written meanwhile, and a pause, so that the next one is for many as well."""
    while own.dirty:
        try:
            own.dirty = False
            await asyncio.to_thread(os.fsync, own.handle)
        except OSError as error:
            own.failed.append(error)
        except asyncio.CancelledError:
            own.dirty = True
            raise
        if own.dirty:
            await asyncio.sleep(_FSYNC_PAUSE_S)
