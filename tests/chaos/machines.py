"""What is built around a run so that it can be broken: a cluster of several nodes, and a small disk."""

import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from ray._private.ray_constants import PROCESS_TYPE_RAYLET
from ray.cluster_utils import Cluster

from tests.chaos.actors import ACTORS, actors_of

_STORE_BYTES = 80 * 2**20


class Nodes:
    """A Ray cluster of a head and `num` nodes on this machine; with_jobs: jobs can be submitted to it."""

    def __init__(self, num: int, *, with_jobs: bool) -> None:
        self._size = {"object_store_memory": _STORE_BYTES, "node_ip_address": "127.0.0.1"}
        dashboard = {"include_dashboard": with_jobs, "dashboard_host": "127.0.0.1", "dashboard_port": 0}
        self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, **self._size, **dashboard})
        for _ in range(num):
            self._cluster.add_node(num_cpus=2, **self._size)

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    @property
    def jobs_url(self) -> str:
        return f"http://{self._cluster.head_node.webui_url}"

    def workers(self) -> list[Any]:
        """The nodes beside the head, in a fixed order."""
        return sorted(self._cluster.worker_nodes, key=lambda node: node.unique_id)

    def actors_on(self, node: Any) -> list[str]:
        """The kinds of actors that a node's raylet has started."""
        raylet = psutil.Process(node.all_processes[PROCESS_TYPE_RAYLET][0].process.pid)
        return [name for name in ACTORS for _ in actors_of(name, under=raylet)]

    def lose(self, node: Any) -> None:
        """SIGKILL to a node's raylet, and another node in its place."""
        self._cluster.remove_node(node, allow_graceful=False)
        self._cluster.add_node(num_cpus=2, **self._size)

    def shut_down(self) -> None:
        self._cluster.shutdown()


class SmallDisk:
    """A file system of its own in main memory, for which root's rights are needed."""

    def __init__(self, folder: Path, size_mib: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self._ballast = folder, folder / "ballast"
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", folder], check=True, capture_output=True
        )

    @staticmethod
    def is_possible(folder: Path) -> bool:
        """Whether this user may mount."""
        if os.geteuid() != 0:
            return False
        try:
            SmallDisk(folder, 1).unmount()
        except (OSError, subprocess.CalledProcessError):
            return False
        return True

    def fill(self) -> int:
        """Leave no byte; how many that took."""
        with suppress(OSError), open(self._ballast, "wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 4096)
        return self._ballast.stat().st_size

    def free(self) -> None:
        """Give the room back."""
        self._ballast.unlink(missing_ok=True)

    def unmount(self) -> None:
        for _ in range(20):
            if subprocess.run(["umount", self.folder], check=False, capture_output=True).returncode == 0:
                return
            time.sleep(0.5)
        raise OSError(f"{self.folder} cannot be unmounted")
