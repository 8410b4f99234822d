"""The page as a server in a thread, and the threads that work beside it."""

import itertools
import socket
import threading
import time

import httpx
import pytest

from judge.human.config import PageConfig
from judge.human.page.sealing import Repeated
from judge.human.page.serve import LabelServer
from rollout.errors import UsageError
from tests.support.label_page import PASSWORD, quick_passwords, tiny_queue


@pytest.fixture
def database(tmp_path):
    return tiny_queue(tmp_path, time.time)


def server_of(database, **options):
    return LabelServer(database, PageConfig(**options.pop("settings", {})), passwords=quick_passwords(), **options)


def wait_for(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_restarted_server_has_its_address_and_knows_its_sessions(database):
    first = server_of(database)
    address = first.start()
    with httpx.Client(base_url=address) as browser:
        assert browser.get("/healthz").json() == {"status": "ok"}
        first_accounts = first._server.config.app.state.page.accounts
        first_accounts.add("Ana", "annotator", PASSWORD)
        assert browser.post("/sign-in", data={"name": "Ana", "password": PASSWORD}).status_code == 303
        first.stop()
        with pytest.raises(httpx.ConnectError):
            browser.get("/healthz")
        second = server_of(database, former_port=first.port)
        assert second.start() == address
        assert browser.get("/no-such-page").status_code == 404  # and not sent to sign in
    second.stop()


def test_an_answer_names_no_software(database):
    server = server_of(database)
    headers = httpx.get(f"{server.start()}/sign-in").headers
    server.stop()
    assert "server" not in headers


def test_the_address_is_the_one_that_browsers_see(database):
    settings = {"public_url": "https://labels.example.org"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = server_of(database, settings=settings, former_port=taken.getsockname()[1])
        assert server.port != taken.getsockname()[1]
    assert server.address == "https://labels.example.org"
    server.stop()
    wild = server_of(database, settings={"host": "0.0.0.0"}, shown_host="10.0.0.7")
    assert wild.address == f"http://10.0.0.7:{wild.port}"
    wild.stop()


def test_a_port_in_use_is_one_line(database):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"cannot listen on 127\.0\.0\.1 port {port}"):
            server_of(database, settings={"port": port})


def test_rounds_are_sealed_while_the_page_runs_and_not_after(database, monkeypatch):
    calls = []
    monkeypatch.setattr("judge.human.rounds.Rounds.seal_due", lambda self: calls.append(1) or [])
    server = server_of(database)
    assert calls == []
    server.start()
    wait_for(lambda: calls)
    server.stop()
    num_calls = len(calls)
    time.sleep(1.1)
    assert len(calls) == num_calls
    assert not [thread for thread in threading.enumerate() if thread.name == "sealing rounds"]


def test_what_fails_is_tried_again_more_slowly_and_logged_once(caplog):
    caplog.set_level("INFO")
    times = []

    def act():
        times.append(time.monotonic())
        if len(times) < 5:
            raise OSError("the database is gone")

    repeated = Repeated("sealing", act, interval_s=0.01)
    repeated.start()
    wait_for(lambda: len(times) >= 8)
    repeated.stop()
    pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert pauses[3] >= 0.1
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["sealing failed, and is tried again: OSError: the database is gone", "sealing works again"]
