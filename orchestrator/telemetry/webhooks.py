"""`notify`: webhooks hear of the end of a round, of alarms, and of the end of an attempt."""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from tenacity import stop_before_delay

from judge.secret import read_secret_file
from judge.webhook import Client, post
from orchestrator.telemetry.config import NotifyConfig
from orchestrator.telemetry.sink import Event
from orchestrator.types import RoundRecord
from rollout.errors import InfraError, UsageError


def webhook_urls(config: NotifyConfig) -> tuple[str, ...]:
    """All addresses of the configuration. Raises UsageError, which shows none, where one that it names is missing."""
    found = list(config.urls)
    if config.url_env is not None:
        found += _addresses(os.environ.get(config.url_env, ""), f"environment variable {config.url_env}")
    if config.url_file is not None:
        name = "notify.url_file"
        found += _addresses(read_secret_file(config.url_file, setting=name), f"{name} {config.url_file}")
    return tuple(found)


class Webhooks:
    """A sink that POSTs notices from a thread of its own; one that cannot be delivered is warned of and given up.

    Each is a JSON object with `event`, `run_id`, `run_name` and `time` (ISO 8601). `round_end` also has round_id,
    policy_in, policy_out and policy_next (versions), num_pairs, num_rejected by reason, num_steps and win_rate (mean,
    low, high, baseline; or null); `alarm` has round_id and reasons; `stop` has state (done, stopped or failed) and
    reason. Signed as judge.webhook says.
    """

    def __init__(
        self,
        config: NotifyConfig,
        *,
        urls: Sequence[str],
        run_name: str,
        run_id: str,
        warn: Callable[[str], None],
        client: Client | None = None,
    ) -> None:
        self._config, self._urls, self._warn, self._client = config, urls, warn, client
        self._run = {"run_id": run_id, "run_name": run_name}
        self._waiting: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, name="webhooks", daemon=True)
        self._thread.start()

    def take(self, event: Event) -> None:
        time = datetime.fromtimestamp(event["time"], tz=UTC).isoformat(timespec="seconds")
        for notice in notices_of(event):
            if notice["event"] in self._config.events:
                self._waiting.put({**self._run, "time": time, **notice})

    def close(self) -> None:
        """Wait for what is under way, for as long as one notice may take."""
        self._waiting.put(None)
        self._thread.join(self._config.deadline_s)
        if self._thread.is_alive():
            self._warn(f"{self._waiting.qsize()} notices or more were not delivered within notify.deadline_s")

    def _deliver(self) -> None:
        client = self._client or _http_client()
        while (notice := self._waiting.get()) is not None:
            for url in self._urls:
                try:
                    post(client, url, notice, stop=stop_before_delay(self._config.deadline_s))
                except InfraError as error:
                    self._warn(f"the notice of {notice['event']} was not delivered: {error}")


def notices_of(event: Event) -> Iterator[dict[str, Any]]:
    """What is told of an event; rounds that an earlier attempt finished are not told again."""
    if event["kind"] == "attempt" and event["state"] != "running":
        yield {"event": "stop", "state": event["state"], "reason": event.get("reason", "")}
    if event["kind"] != "round_done" or event["resumed"]:
        return
    record: RoundRecord = event["record"]
    win_rate = record.scores.win_rate if record.scores else None
    yield {
        "event": "round_end",
        "round_id": record.round_id,
        "policy_in": record.policy_in.version,
        "policy_out": record.policy_out.version,
        "policy_next": (record.policy_next or record.policy_in).version,
        "num_pairs": record.num_pairs,
        "num_rejected": record.all_rejected,
        "num_steps": record.update.num_steps if record.update else 0,
        "win_rate": {
            "mean": win_rate.mean,
            "low": win_rate.low,
            "high": win_rate.high,
            "baseline": record.scores.baseline,
        }
        if record.scores and win_rate
        else None,
    }
    reasons = [*(record.scores.alarms if record.scores else ()), *record.gate_reasons]
    if reasons:
        yield {"event": "alarm", "round_id": record.round_id, "reasons": reasons}


def _addresses(text: str, where: str) -> list[str]:
    found = text.split()
    if not found or not all(url.startswith(("http://", "https://")) for url in found):
        raise UsageError(f"{where} holds no webhook: expected addresses that begin with http:// or https://")
    return found


def _http_client() -> Client:
    import httpx  # only where somebody is to be told

    return httpx.Client()
