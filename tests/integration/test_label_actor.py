"""The labelling page as a Ray actor: it keeps its address and its sessions when it is killed."""

import os
import signal
import socket
import time

import httpx
import pytest
import ray

from judge.human.accounts import Accounts
from judge.human.actor import LabelServerActor
from judge.human.config import PageConfig
from judge.human.database import Database
from rollout.errors import UsageError
from tests.support.label_page import PASSWORD, quick_passwords

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def healthy(address, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{address}/healthz", timeout=2.0).status_code == 200:
                return True
        except httpx.TransportError:
            time.sleep(0.2)
    return False


def test_annotators_notice_nothing_when_the_page_is_killed(tmp_path):
    url = f"sqlite:///{tmp_path}/labels/queue.sqlite"
    actor = LabelServerActor.remote(queue_url=url, settings=PageConfig(), port_file=f"{tmp_path}/labels/port")
    address = ray.get(actor.start.remote(), timeout=60)
    Accounts(Database(url), passwords=quick_passwords()).add("Ana", "annotator", PASSWORD)
    with httpx.Client(base_url=address) as browser:
        assert browser.post("/sign-in", data={"name": "Ana", "password": PASSWORD}).status_code == 303
        os.kill(ray.get(actor.process_id.remote(), timeout=30), signal.SIGKILL)
        assert healthy(address)
        assert ray.get(actor.start.remote(), timeout=60) == address
        assert browser.get("/").status_code == 200
    ray.get(actor.stop.remote(), timeout=30)
    assert not healthy(address, timeout_s=1.0)


def test_a_port_that_is_taken_is_refused_in_words(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        url = f"sqlite:///{tmp_path}/labels/queue.sqlite"
        actor = LabelServerActor.remote(queue_url=url, settings=PageConfig(port=port))
        with pytest.raises(ray.exceptions.RayTaskError) as refused:
            ray.get(actor.start.remote(), timeout=60)
    assert isinstance(refused.value.cause, UsageError)
    assert f"cannot listen on 127.0.0.1 port {port}" in str(refused.value.cause)
