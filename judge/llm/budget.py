"""What a judge may spend in a run: reserved before a request is sent, settled when it is known what it cost.

All actors of a judge draw on one ledger file, under a lock, in blocks: what an actor has leased it may spend without
asking again. So the sum is never overspent, however many actors there are, and a restarted actor gives back what its
predecessor had leased and, by the store, not spent.
"""

import asyncio
import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path

from filelock import FileLock, Timeout

from judge.llm.config import BudgetConfig
from judge.store import Cost
from rollout.errors import DataError, InfraError
from rollout.shards import read_json, write_json

_BLOCKS = 16  # an actor leases a sixteenth of its even share at a time
_LOCK_TIMEOUT_S = 60.0
_NAMES = tuple(one.name for one in fields(Cost))


class Budget:
    """One actor's view of a judge's budget."""

    def __init__(self, config: BudgetConfig, ledger: Path, *, actor: int, num_actors: int) -> None:
        limits = {"requests": config.requests, "tokens": config.tokens, "money": config.money}
        self._limits = {name: float(limit) for name, limit in limits.items() if limit is not None}
        self._config, self._ledger, self._actor, self._num_actors = config, ledger, actor, num_actors
        self._free = dict.fromkeys(self._limits, 0.0)
        self._num_reserved = 0
        self._exhausted = False
        self._settled: asyncio.Event | None = None
        self.refused_for = ""

    def cost(self, *, prompt_tokens: int, completion_tokens: int) -> Cost:
        """Of one request with so many tokens."""
        money = prompt_tokens * self._config.price_input + completion_tokens * self._config.price_output
        return Cost(requests=1, tokens=prompt_tokens + completion_tokens, money=money / 1e6)

    def start(self, spent: Mapping[int, Cost]) -> None:
        """Take up this actor's place in the ledger. spent: by actor, from the store."""
        if not self._limits:
            return
        self._ledger.parent.mkdir(parents=True, exist_ok=True)
        with self._lock():
            leased = self._read()
            for actor in {*map(int, leased), *spent, self._actor}:
                if actor == self._actor or actor >= self._num_actors or str(actor) not in leased:
                    leased[str(actor)] = asdict(spent.get(actor, Cost()))
            write_json(self._ledger, leased)

    async def reserve(self, cost: Cost, deadline_s: float) -> None:
        """Set this much aside before a request is sent; waits where only requests under way may leave enough.

        Raises DataError: budget_spent or deadline.
        """
        while self._limits and not self._fits(cost):
            if not self._exhausted:
                self._lease(cost)
            elif self._num_reserved == 0:
                short = [name for name in self._limits if self._free[name] < getattr(cost, name)]
                self.refused_for = f"judge.budget.{short[0]} = {getattr(self._config, short[0]):g}"
                raise DataError("budget_spent", f"{self.refused_for} leaves {self._free[short[0]]:g}")
            else:
                await self._settlement(deadline_s)
        self._num_reserved += 1
        self._add(cost, -1.0)

    def settle(self, reserved: Cost, spent: Cost) -> None:
        """Exchange what was reserved for what was really spent."""
        self._num_reserved -= 1
        self._add(reserved, 1.0)
        self._add(spent, -1.0)
        if self._settled is not None:
            self._settled.set()
            self._settled = None

    async def _settlement(self, deadline_s: float) -> None:
        self._settled = self._settled or asyncio.Event()
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._settled.wait()
        except TimeoutError:
            raise DataError("deadline", "judge.stage_timeout_s passed while the budget was in use") from None

    def _fits(self, cost: Cost) -> bool:
        return all(free >= getattr(cost, name) for name, free in self._free.items())

    def _add(self, cost: Cost, sign: float) -> None:
        for name in self._free:
            self._free[name] += sign * getattr(cost, name)

    def _lease(self, cost: Cost) -> None:
        with self._lock():
            leased = self._read()
            mine = leased.setdefault(str(self._actor), asdict(Cost()))
            for name, limit in self._limits.items():
                left = limit - sum(one[name] for one in leased.values())
                lacking = max(0.0, getattr(cost, name) - self._free[name])
                block = max(lacking, limit / (_BLOCKS * self._num_actors))
                block = min(left, block if name == "money" else math.ceil(block))
                if block < lacking or left <= 0.0 < lacking:
                    self._exhausted = True
                block = max(0.0, block)
                mine[name] += block
                self._free[name] += block
            write_json(self._ledger, leased)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        path = self._ledger.with_suffix(".lock")
        try:
            with FileLock(path, timeout=_LOCK_TIMEOUT_S):
                yield
        except Timeout as error:
            raise InfraError(
                f"{path} was held for {_LOCK_TIMEOUT_S:g} s by another process; end it, then resume"
            ) from error

    def _read(self) -> dict[str, dict[str, float]]:
        return read_json(self._ledger, dict[str, dict[str, float]]) if self._ledger.exists() else {}


def budget_for(config: BudgetConfig, folder: Path, *, judge: str, actor: int, num_actors: int) -> Budget:
    """The budget of this judge, whose ledger lies beside the verdicts."""
    return Budget(config, folder / f"{judge.replace('/', '.')}.budget.json", actor=actor, num_actors=num_actors)
