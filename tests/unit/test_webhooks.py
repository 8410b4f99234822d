"""Webhooks hear of the end of a round, of alarms and of the end of an attempt, and never stop a run."""

import hmac
import json
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from orchestrator.telemetry.config import NotifyConfig
from orchestrator.telemetry.webhooks import Webhooks, webhook_urls
from rollout.errors import UsageError
from tests.support.told_events import START, told_record

URL = "https://hooks.example.org/services/SECRET"


class Hook:
    def __init__(self, status=204):
        self.status, self.posts, self.held = status, [], None

    def post(self, url, *, content, headers, timeout):
        if self.held is not None:
            self.held.wait(10)
        self.posts.append((url, json.loads(content), headers, content))
        if isinstance(self.status, Exception):
            raise self.status
        return SimpleNamespace(status_code=self.status)

    @property
    def events(self):
        return [body["event"] for _, body, _, _ in self.posts]


def tell(happened, hook=None, urls=(URL,), **config):
    """What webhooks warned of."""
    warned = []
    settings = NotifyConfig(**{"deadline_s": 0.2, **config})
    sink = Webhooks(settings, urls=urls, run_name="my", run_id="abc", warn=warned.append, client=hook)
    for event in happened:
        sink.take(event)
    sink.close()
    return warned


def round_done(*, resumed=False, alarms=(), **changes):
    record = told_record(**changes)
    record = replace(record, scores=replace(record.scores, alarms=alarms))
    return {"kind": "round_done", "record": record, "resumed": resumed, "time": START}


def ended(state, reason=""):
    return {"kind": "attempt", "state": state, "reason": reason, "time": START}


def test_a_round_an_alarm_and_the_end_are_told_and_signed(monkeypatch):
    monkeypatch.setenv("RONDO_WEBHOOK_SECRET", "key")
    hook = Hook()
    events = [ended("running"), round_done(alarms=("over_optimisation: seen",)), ended("stopped", "Stopped: SIGTERM")]
    assert tell(events, hook) == []
    assert hook.events == ["round_end", "alarm", "stop"]
    (url, told, headers, content), (_, alarm, _, _), (_, stop, _, _) = hook.posts
    assert url == URL
    assert told | {"run_id": "abc", "run_name": "my", "round_id": 0, "num_pairs": 8, "policy_next": 1} == told
    assert told["time"] == "1970-01-12T13:46:40+00:00"
    assert told["win_rate"]["mean"] == 0.7
    assert alarm["reasons"] == ["over_optimisation: seen"]
    assert (stop["state"], stop["reason"]) == ("stopped", "Stopped: SIGTERM")
    assert headers["X-Rondo-Signature"] == "sha256=" + hmac.new(b"key", content, "sha256").hexdigest()


def test_only_the_events_asked_for_and_no_round_twice():
    hook = Hook()
    tell([round_done(alarms=("seen",)), ended("done")], hook, events=("alarm",))
    tell([round_done(resumed=True, alarms=("seen",))], hook)
    assert hook.events == ["alarm"]


@pytest.mark.parametrize("answer", [500, 302, ConnectionError(f"cannot reach {URL}")])
def test_what_cannot_be_delivered_is_warned_of_without_its_address(answer):
    warned = tell([ended("done")], Hook(answer))
    assert len(warned) == 1
    assert "hooks.example.org" in warned[0]
    assert "SECRET" not in warned[0]


def test_an_endpoint_that_hangs_holds_nobody_up():
    hook = Hook()
    hook.held = threading.Event()
    assert "not delivered within" in tell([ended("done")], hook)[0]
    hook.held.set()


def test_addresses_come_from_settings_environment_and_file(tmp_path, monkeypatch):
    monkeypatch.setenv("HOOKS", " https://one.example  https://two.example ")
    (tmp_path / "hook").write_text("https://three.example\n")
    config = NotifyConfig(urls=("http://four.example",), url_env="HOOKS", url_file=str(tmp_path / "hook"))
    assert [url.split("/")[2].split(".")[0] for url in webhook_urls(config)] == ["four", "one", "two", "three"]
    assert webhook_urls(NotifyConfig()) == ()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"url_env": "NO_SUCH_HOOK"}, "environment variable NO_SUCH_HOOK holds no webhook"),
        ({"url_file": "nowhere"}, "notify.url_file nowhere cannot be read"),
    ],
)
def test_an_address_that_is_missing_is_refused_before_the_run(config, message):
    with pytest.raises(UsageError, match=message):
        webhook_urls(NotifyConfig(**config))


def test_a_real_server_is_told():
    bodies = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        urls = (f"http://127.0.0.1:{server.server_address[1]}/hook",)
        assert tell([ended("done")], urls=urls, deadline_s=10.0) == []
        server.shutdown()
    assert bodies[0]["event"] == "stop"
