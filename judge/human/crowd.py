"""Simulated annotators, who use the page over HTTP as browsers do: for benchmarks and tests of whole rounds."""

import asyncio
import itertools
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from html import unescape
from typing import Any

import aiohttp

_CSRF = re.compile(r'<meta name="csrf" content="([^"]*)"')
_FIRST_RETRY_S, _LAST_RETRY_S = 1.0, 30.0
# The page's HTML, left and right -> left, right, tie or both_bad, or None: the pair is left lying.
Choose = Callable[[str, str, str], str | None]


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How simulated people work. dwell_s is a mean (exponential, from min_dwell_s on); the shares are of pairs shown.

    vanish_share leave a pair lying, replay_share hand the same label in again, race_share hand two different ones in at
    once. reads_texts: they ask for both answers as plain text, which a person's browser does not.
    """

    dwell_s: float = 3.0
    min_dwell_s: float = 0.5
    vanish_share: float = 0.0
    replay_share: float = 0.0
    race_share: float = 0.0
    reads_texts: bool = False


@dataclass(kw_only=True)
class Tally:
    """What the crowd saw. seconds: of each submission that was answered at the first attempt, in order."""

    seconds: list[float] = field(default_factory=list)
    label_ids: list[int] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)


class Annotator:
    """One browser: it joins by an invitation and keeps its cookies."""

    def __init__(self, address: str, tally: Tally, *, seed: int) -> None:
        self._address, self._tally = address, tally
        self._draw = random.Random(seed)
        self._http = aiohttp.ClientSession(
            headers={"Origin": address, "Sec-Fetch-Site": "same-origin"},
            cookie_jar=aiohttp.CookieJar(unsafe=True),  # the page's address is a number here
            timeout=aiohttp.ClientTimeout(total=60),
        )
        self._csrf = ""
        self._held: str | None = None

    async def join(self, link_path: str, name: str, password: str = "correct horse battery") -> None:
        """Accept an invitation, and open the labelling page. Raises RuntimeError if it is refused."""
        form = {"name": name, "password": password, "again": password}
        status, text = await self._ask("POST", link_path, data=form)
        if status != 200:
            raise RuntimeError(f"invitation refused with {status}: {text[-500:]}")
        _, text = await self._ask("GET", "/")
        found = _CSRF.search(text)
        if found is None:
            raise RuntimeError("the page carries no CSRF token")
        self._csrf = unescape(found[1])

    async def work(self, habits: Habits, choose: Choose, ended: asyncio.Event) -> None:
        """Arrive some time within the first moments, and label until `ended` is set."""
        await asyncio.sleep(self._draw.uniform(0.0, 4 * habits.dwell_s))
        while not ended.is_set():
            status, found = await self._json("GET", f"/api/next{f'?other_than={self._held}' if self._held else ''}")
            if status != 200 or found["state"] != "pair":
                self._held = None
                self._tally.statuses[f"next {status if status != 200 else 'empty'}"] += 1
                await asyncio.sleep(max(0.3, min(1.0, habits.dwell_s)))
                continue
            self._held = token = found["token"]
            left, right = await self._texts(token) if habits.reads_texts else ("", "")
            await asyncio.sleep(habits.min_dwell_s + self._draw.expovariate(1 / max(habits.dwell_s, 1e-6)))
            choice = choose(found["html"], left, right)
            if choice is None or self._draw.random() < habits.vanish_share:
                self._tally.statuses["vanished"] += 1
                await asyncio.sleep(0.5 if choice is None else 0.0)
                continue
            await self._hand_in(token, choice, habits)

    async def close(self) -> None:
        """Close the browser."""
        await self._http.close()

    async def _hand_in(self, token: str, choice: str, habits: Habits) -> None:
        path, body = f"/api/labels/{token}", {"choice": choice}
        if self._draw.random() < habits.race_share:
            other = {"choice": "tie" if choice != "tie" else "both_bad"}
            answers = await asyncio.gather(self._submit(path, body), self._submit(path, other))
            self._tally.statuses["race " + " ".join(sorted(str(status) for status in answers))] += 1
            return
        await self._submit(path, body)
        if self._draw.random() < habits.replay_share:
            self._tally.statuses[f"replay {await self._submit(path, body)}"] += 1

    async def _submit(self, path: str, body: dict[str, Any]) -> int:
        started, num_lost = time.perf_counter(), self._tally.statuses["connection lost"]
        status, found = await self._json("POST", path, json=body)
        if num_lost == self._tally.statuses["connection lost"]:  # nobody's connection broke meanwhile
            self._tally.seconds.append(time.perf_counter() - started)
        self._tally.statuses[f"label {status}"] += 1
        if status == 200:
            self._tally.label_ids.append(found["label_id"])
        elif status == 429:
            await asyncio.sleep(float(found.get("retry_after_s", 1.0)))
            return await self._submit(path, body)
        return status

    async def _texts(self, token: str) -> tuple[str, str]:
        sides = [await self._ask("GET", f"/api/leases/{token}/raw/{side}") for side in ("left", "right")]
        return sides[0][1], sides[1][1]

    async def _json(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        status, text = await self._ask(method, path, **options)
        return status, json.loads(text) if text.startswith("{") else {}

    async def _ask(self, method: str, path: str, **options: Any) -> tuple[int, str]:
        """Ask until there is an answer, as the page's own script does: the same request again changes nothing."""
        headers = {"X-CSRF-Token": self._csrf} if method == "POST" and self._csrf else {}
        for attempt in itertools.count():
            try:
                async with self._http.request(method, self._address + path, headers=headers, **options) as response:
                    status, text = response.status, await response.text()
            except (aiohttp.ClientError, TimeoutError, ConnectionError):
                self._tally.statuses["connection lost"] += 1
            else:
                if status not in (502, 503, 504):
                    return status, text
                self._tally.statuses[f"retried {status}"] += 1
            pause_s = min(_LAST_RETRY_S, _FIRST_RETRY_S * 2 ** min(attempt, 5))  # as outbox.js does
            await asyncio.sleep(pause_s * (0.5 + self._draw.random()))
        raise AssertionError


async def crowd(
    address: str,
    links: list[str],
    *,
    habits: Habits,
    choose: Choose,
    ended: asyncio.Event,
    tally: Tally,
    names: str = "annotator",
) -> None:
    """Let as many annotators as there are invitations (paths) join, and work until `ended` is set."""
    people = [Annotator(address, tally, seed=number) for number in range(len(links))]
    try:
        for number, (person, link) in enumerate(zip(people, links, strict=True)):
            await person.join(link, f"{names} {number}")
        await asyncio.gather(*(person.work(habits, choose, ended) for person in people))
    finally:
        for person in people:
            await person.close()
