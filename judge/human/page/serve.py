"""Serves the labelling page: in a thread of a run's actor or of a test, or as a process of its own."""

import gc
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable

import uvicorn

from judge.human.config import PageConfig
from judge.human.credentials import Passwords
from judge.human.database import Database
from judge.human.page.app import make_app
from judge.human.page.limits import Limits
from judge.human.page.stage import rehearse
from rollout.errors import InfraError, UsageError

_LOG = logging.getLogger(__name__)
_START_S, _STOP_S = 30.0, 10
_SWITCH_S = 0.0005


class LabelServer:
    """The page on its host and port; the socket is open once this is made.

    Args: former_port is tried first where settings.port is 0, so that a restarted run keeps its address; shown_host
    stands in the address where the page listens on all interfaces.
    """

    def __init__(
        self,
        database: Database,
        settings: PageConfig,
        *,
        former_port: int = 0,
        shown_host: str | None = None,
        clock: Callable[[], float] = time.time,
        limits: Limits | None = None,
        passwords: Passwords | None = None,
    ) -> None:
        self._app = make_app(database, settings, clock=clock, limits=limits, passwords=passwords)
        self._socket = _listen(settings, former_port)
        self.port: int = self._socket.getsockname()[1]
        host = shown_host or (settings.host if settings.host not in {"0.0.0.0", "::"} else socket.gethostname())
        shown = f"[{host}]" if ":" in host else host
        self.address = settings.public_url or f"http://{shown}:{self.port}"
        config = uvicorn.Config(
            self._app,
            log_config=None,
            access_log=False,  # invitations stand in addresses
            server_header=False,
            proxy_headers=False,  # security.py reads them, from trusted_proxies alone
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_STOP_S,
            ws="none",
        )
        self._server = uvicorn.Server(config)
        self._thread: threading.Thread | None = None

    def run(self) -> None:
        """Serve in this thread, in the main one until SIGINT or SIGTERM; requests under way are finished."""
        # A submission needs the interpreter many times for a moment, a pair to be rendered for milliseconds at a time.
        sys.setswitchinterval(_SWITCH_S)
        rehearse(self._app.state.page)
        # Half a million objects are of imports, and stay: to look through them all takes longer than a label may wait.
        gc.collect()
        gc.freeze()
        self._server.run(sockets=[self._socket])

    def start(self) -> str:
        """Serve in a thread of its own and return the address; raises InfraError where it does not come up."""
        self._thread = threading.Thread(target=self.run, name="label-server", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise InfraError(f"the labelling page at {self.address} did not come up; see the log")
            time.sleep(0.01)
        return self.address

    def stop(self) -> None:
        """Finish the requests under way, end the thread, close the socket."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(_STOP_S + 5)
        self._socket.close()


def serve(database: Database, settings: PageConfig, *, announce: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM, `announce` gets the address first; raises UsageError for a port in use."""
    server = LabelServer(database, settings)
    announce(server.address)
    server.run()


def _listen(settings: PageConfig, former_port: int) -> socket.socket:
    ports = [settings.port] if settings.port or not former_port else [former_port, 0]
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    for port in ports:
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((settings.host, port))
        except OSError as error:
            listening.close()
            cause = error
            continue
        listening.set_inheritable(True)
        return listening
    raise UsageError(f"page.host, page.port: cannot listen on {settings.host} port {ports[-1]}: {cause}") from None
