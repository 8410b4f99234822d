"""A PostgreSQL server of the test's own: a temporary folder, a free loopback port, gone afterwards."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg

_NUMBERS = count()


def postgres_bin() -> Path | None:
    """The folder of Debian's newest server programs, None where there are none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


class Postgres:
    """A running server: `database()` makes an empty database and gives its URL; `stop` and `start` are an outage."""

    def __init__(self, programs: Path, folder: Path, *, durable: bool) -> None:
        self._programs, self._folder = programs, folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "postgres", "postgres")
        self._run("initdb", "-D", f"{folder}/cluster", "-U", "rondo", "-A", "trust", "-E", "UTF8", "--no-sync")
        settings = {"listen_addresses": "127.0.0.1", "port": self._port, "unix_socket_directories": folder}
        if not durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        with (folder / "cluster" / "postgresql.conf").open("a") as file:
            file.writelines(lines)

    def start(self) -> None:
        self._run("pg_ctl", "-D", f"{self._folder}/cluster", "-l", f"{self._folder}/log", "-w", "-t", "60", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", f"{self._folder}/cluster", "-w", "-m", "fast", "stop")

    def database(self) -> str:
        name = f"labels_{next(_NUMBERS)}"
        with psycopg.connect(f"postgresql://rondo@127.0.0.1:{self._port}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return f"postgresql://rondo@127.0.0.1:{self._port}/{name}"

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self._programs / program), *arguments]
        if os.geteuid() == 0:
            command = ["runuser", "-u", "postgres", "--", *command]
        # The server keeps what it inherits open, and a pipe would never end.
        with open(self._folder / "programs", "ab") as log:
            done = subprocess.run(command, stdout=log, stderr=log, check=False, cwd="/", timeout=120)
        assert done.returncode == 0, (self._folder / "programs").read_text()


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """A started server; it and its files are gone at the end. durable: commits reach the disk, as in earnest."""
    programs = postgres_bin()
    assert programs is not None, "look at postgres_bin() before"
    folder = Path(tempfile.mkdtemp(prefix="rondo-postgres-", dir="/tmp"))
    server = Postgres(programs, folder, durable=durable)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder)
