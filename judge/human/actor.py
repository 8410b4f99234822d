"""The labelling page as a Ray actor: a shell around LabelServer."""

import os
from pathlib import Path

import ray

from judge.attempt import attempt
from judge.human.accounts import Accounts
from judge.human.config import PageConfig
from judge.human.database import Database
from judge.human.page.serve import LabelServer


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)
class LabelServerActor:
    """Serves as soon as it is made, so also after Ray has restarted it: then, where it can, on the port it had.

    Args: port_file remembers the port over restarts of the run, too.
    """

    def __init__(self, *, queue_url: str, settings: PageConfig, port_file: str | None = None) -> None:
        self._database = Database(queue_url)
        self._made = attempt(lambda: self._serve(settings, Path(port_file) if port_file else None))

    def _serve(self, settings: PageConfig, port_file: Path | None) -> LabelServer:
        self._database.upgrade()
        former_port, shown_host = _former_port(port_file), _shown_host(settings)
        server = LabelServer(self._database, settings, former_port=former_port, shown_host=shown_host)
        if port_file is not None:
            port_file.parent.mkdir(parents=True, exist_ok=True)
            port_file.write_text(f"{server.port}\n")
        server.start()
        return server

    def __repr__(self) -> str:
        return "label-server refused" if self._made.exception() else f"label-server {self._server.address}"

    @property
    def _server(self) -> LabelServer:
        return self._made.result()

    def start(self) -> str:
        """The address; an answer also says that the page is up. Raises UsageError where it cannot be served."""
        return self._server.address

    def has_administrator(self) -> bool:
        """Whether anybody can administer the page."""
        return Accounts(self._database).has_administrator()

    def process_id(self) -> int:
        """Of the process that serves."""
        return os.getpid()

    def stop(self) -> None:
        """See LabelServer.stop."""
        self._server.stop()


def _former_port(file: Path | None) -> int:
    try:
        return int(file.read_text()) if file is not None else 0
    except (OSError, ValueError):
        return 0


def _shown_host(settings: PageConfig) -> str | None:
    """Behind a wildcard the node's own address, which the cluster can reach."""
    return ray.util.get_node_ip_address() if settings.host in {"0.0.0.0", "::"} else None
