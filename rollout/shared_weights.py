"""Weights in shared memory: how a learner hands a policy to the engines of its own node without the disk in between.

What is shared are copies of the policy's own weight files, made after these are durable: memory without a name in any
file system, which ends with the learner's process and is not bound by the size of /dev/shm. Engines find it through a
folder of the node, by run: an engine that takes weights this way makes the folder, a learner that finds it offers.
"""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from rollout.errors import InfraError
from rollout.files import read_json, temporary_beside
from rollout.types import PolicyRef
from rollout.weight_source import WeightSource, tensor_hashes
from rollout.weights import weight_files

_LOG = logging.getLogger(__name__)
_OFFER = "offer.json"
_BLOCK_BYTES = 2**27


@dataclass(frozen=True, kw_only=True)
class SharedPolicy:
    """The policy that a learner offers at present: where this node's processes can open copies of its weight files,
    and the XXH3 hash of each tensor by name."""

    policy: PolicyRef
    files: tuple[str, ...]
    hashes: dict[str, str]


class WeightOffer:
    """The learner's side; holds the memory of one policy at a time. Engines that still read an older one keep it."""

    def __init__(self, run_dir: Path) -> None:
        self._folder = _meeting_place(run_dir)
        self._held: list[int] = []

    def make(self, policy: PolicyRef, folder: Path) -> bool:
        """Offer a whole policy whose files in `folder` are durable; False where no engine of this node asks for it.

        False, too, where there is no memory for it: engines then read the folder.
        """
        if policy.kind != "full" or not _is_ours(self._folder):
            return False
        self.close()
        names = [(file, _memory_name(policy, number)) for number, file in enumerate(weight_files(folder))]
        try:
            copies = [self._copied(file, name) for file, name in names]
        except OSError as error:
            _LOG.warning("policy v%d is not shared in memory, engines read its folder: %s", policy.version, error)
            self.close()
            return False
        hashes = {name: value for copy in copies for name, value in tensor_hashes(Path(copy)).items()}
        offered = SharedPolicy(policy=policy, files=tuple(copies), hashes=hashes)
        _write(self._folder / _OFFER, offered)
        return True

    def close(self) -> None:
        """Take the offer back; the memory is given back once no engine reads it any more."""
        while self._held:
            os.close(self._held.pop())

    __del__ = close

    def _copied(self, file: Path, name: str) -> str:
        memory = os.memfd_create(name, os.MFD_CLOEXEC)
        self._held.append(memory)
        with open(file, "rb") as source:
            while os.sendfile(memory, source.fileno(), None, _BLOCK_BYTES):
                pass
        return f"/proc/{os.getpid()}/fd/{memory}"


def ask_for_offers(run_dir: Path) -> None:
    """Let the learner of this run know, if it is on this node, that an engine here takes weights from its memory."""
    folder = _meeting_place(run_dir)
    for place in (folder.parent, folder):
        place.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(folder):
        raise InfraError(f"{folder.parent} belongs to another user; remove it, or set rollout.weight_sync: folder")


@contextmanager
def offered_weights(run_dir: Path, policy: PolicyRef, folder: Path) -> Iterator[WeightSource | None]:
    """This very policy in shared memory, kept for as long as the block lasts; None where nobody offers it here.

    folder: where its durable files lie.
    """
    offer = _meeting_place(run_dir) / _OFFER
    if not (_is_ours(offer.parent) and offer.exists()):
        yield None
        return
    offered = read_json(offer, SharedPolicy)
    with ExitStack() as opened:
        files: list[Path] = []
        for number, path in enumerate(offered.files if offered.policy == policy else ()):
            memory = _opened(path, _memory_name(policy, number))
            if memory is None:
                break
            opened.callback(os.close, memory)
            files.append(Path(f"/proc/{os.getpid()}/fd/{memory}"))
        whole = files and len(files) == len(offered.files)
        source = WeightSource(road="shared_memory", folder=folder, files=tuple(files), hashes=offered.hashes)
        yield source if whole else None


def _opened(path: str, name: str) -> int | None:
    """The memory of this name, where the path still leads to it: its owner may have gone, and another come."""
    try:
        memory = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    if os.readlink(f"/proc/self/fd/{memory}") == f"/memfd:{name} (deleted)":
        return memory
    os.close(memory)
    return None


def _memory_name(policy: PolicyRef, number: int) -> str:
    return f"rondo-{policy.version}-{policy.sha256}-{number}"


def _write(path: Path, offered: SharedPolicy) -> None:
    """At once or not at all; there is nothing to keep beyond the learner's process."""
    temporary = temporary_beside(path)
    temporary.write_text(json.dumps(asdict(offered)))
    os.replace(temporary, path)


def _meeting_place(run_dir: Path) -> Path:
    """A folder of this node that engines and learner of a run know without being told."""
    name = hashlib.sha256(str(run_dir).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"rondo-weights-{os.geteuid()}" / name


def _is_ours(folder: Path) -> bool:
    """Whether it exists and nobody else could have made it: weights are taken from where it says."""
    try:
        return all(place.lstat().st_uid == os.geteuid() and not place.is_symlink() for place in (folder.parent, folder))
    except FileNotFoundError:
        return False
