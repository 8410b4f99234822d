"""What is done to a run: each fault strikes once, or finds nothing to strike yet, and says what must follow."""

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.chaos import judges
from tests.chaos.actors import actors_of
from tests.chaos.attempts import Attempt, JobAttempt
from tests.chaos.machines import Nodes, SmallDisk
from tests.chaos.shards import to_be_read_again, without_a_sequel

LEFT_WITHIN_S = 90.0


@dataclass(kw_only=True)
class Scene:
    """A run directory, the attempt that works on it, and what was built around both."""

    root: Path
    attempt: Attempt | JobAttempt
    nodes: Nodes | None = None
    disk: SmallDisk | None = None
    endpoint: judges.Endpoint | None = None
    orders: Path


@dataclass(kw_only=True)
class Struck:
    """What was done, and what must follow.

    codes: the attempt ends with one of them by this alone; none: it goes on, or fails in one line that names a cause.
    said: what the attempt must say, within `within_s` seconds. undo: to be done once the attempt has ended. cut: the
    next attempt must refuse this file by name, until it is whole again. forgotten: files that count as never written.
    instead: the kind that it became.
    """

    what: str
    instead: str = ""
    codes: tuple[int, ...] = ()
    said: str = ""
    within_s: float = LEFT_WITHIN_S
    undo: Callable[[], None] = lambda: None
    cut: "Cut | None" = None
    forgotten: tuple[Path, ...] = ()


@dataclass
class Cut:
    """A file that has lost its end, and can be made whole again."""

    path: Path
    whole: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.whole = self.path.read_bytes()
        self.path.write_bytes(self.whole[: len(self.whole) - max(1, len(self.whole) // 7)])

    def mend(self) -> None:
        self.path.write_bytes(self.whole)


Fault = Callable[[Scene, random.Random], Struck | None]


def kill_actor(name: str) -> Fault:
    """SIGKILL to one of the processes of an actor."""

    def strike(scene: Scene, rng: random.Random) -> Struck | None:
        found = actors_of(name)
        if not found:
            return None
        victim = rng.choice(found)
        with suppress(psutil.NoSuchProcess):
            title = " ".join(victim.cmdline())
            victim.kill()
            return Struck(what=title)
        return None

    return strike


def kill_driver(scene: Scene, rng: random.Random) -> Struck | None:
    """SIGKILL to the driver, alone or with its whole process group."""
    assert isinstance(scene.attempt, Attempt)
    alone = rng.random() < 0.5
    scene.attempt.kill(alone=alone)
    return Struck(what="alone" if alone else "with its process group", codes=(-9,))


def kill_raylet(scene: Scene, rng: random.Random) -> Struck | None:
    """SIGKILL to the raylet of a node on which the run has actors, and another node in its place."""
    assert scene.nodes is not None
    nodes = scene.nodes.workers()
    busy = [node for node in nodes if scene.nodes.actors_on(node)]
    if not busy:
        return None
    node = rng.choice(busy)
    actors = scene.nodes.actors_on(node)
    scene.nodes.lose(node)
    return Struck(what=f"a node with {', '.join(actors)}")


def disturb_calls(scene: Scene, rng: random.Random) -> Struck | None:
    """The next calls of the judge's function take long, without a trace in what it answers."""
    return _give_orders(scene, rng, judges.HARMLESS_CALLS)


def spoil_calls(scene: Scene, rng: random.Random) -> Struck | None:
    """The next calls of the judge's function raise, or return what is no score: abstentions, counted by reason."""
    return _give_orders(scene, rng, judges.COUNTED_CALLS)


def disturb_requests(scene: Scene, rng: random.Random) -> Struck | None:
    """The next requests to the judge's endpoint are late, lost, cut or refused; they are sent again."""
    return _misbehave(scene, rng, judges.HARMLESS_REQUESTS)


def spoil_requests(scene: Scene, rng: random.Random) -> Struck | None:
    """The next requests to the judge's endpoint are answered with what is no verdict."""
    return _misbehave(scene, rng, judges.COUNTED_REQUESTS)


def fill_disk(scene: Scene, rng: random.Random) -> Struck | None:
    """Not a byte is left below the run directory until the attempt has ended."""
    assert scene.disk is not None
    size_bytes = scene.disk.fill()
    return Struck(what=f"{size_bytes:,} bytes", codes=(1,), said=r"No space left on device", undo=scene.disk.free)


def hang_engine(deadline_s: float) -> Fault:
    """SIGSTOP to an engine that a weight update, or other work, will reach; it stays so until the attempt has ended."""

    def strike(scene: Scene, rng: random.Random) -> Struck | None:
        found = actors_of("RolloutActor")
        if not found:
            return None
        stopped = Stopped(rng.choice(found))
        said = r"(weight update of|start of|scoring on|generation on|progress of)? ?engine \d+"
        return Struck(what=f"{stopped}", said=said, within_s=deadline_s, undo=stopped.release)

    return strike


def stop_job(scene: Scene, rng: random.Random) -> Struck | None:
    """`ray job stop`."""
    assert isinstance(scene.attempt, JobAttempt)
    if not actors_of("RolloutActor"):  # signals are heeded from Ray's start on
        return None
    scene.attempt.stop()
    return Struck(what="SIGTERM", codes=(3,), said="stopped by SIGTERM; the same command resumes")


def cut_committed(scene: Scene, rng: random.Random) -> Struck | None:
    """The driver is killed, and a committed file that is still to be read loses its end."""
    if not to_be_read_again(scene.root):
        return None
    kill_driver(scene, rng)
    assert scene.attempt.leftovers(LEFT_WITHIN_S) == []
    found = to_be_read_again(scene.root)
    if not found:
        return Struck(what="nothing to cut", instead="driver killed", codes=(-9,))
    path = rng.choice(found)
    return Struck(what=path.relative_to(scene.root).as_posix(), codes=(-9,), cut=Cut(path))


def cut_uncommitted(scene: Scene, rng: random.Random) -> Struck | None:
    """The driver is killed, and the last shard of a chain has half of its bytes and no manifest."""
    if not without_a_sequel(scene.root):
        return None
    kill_driver(scene, rng)
    assert scene.attempt.leftovers(LEFT_WITHIN_S) == []
    found = without_a_sequel(scene.root)
    if not found:
        return Struck(what="nothing to cut", instead="driver killed", codes=(-9,))
    manifest = rng.choice(found)
    shard = manifest.with_suffix(".arrow")
    manifest.unlink()
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    return Struck(what=shard.relative_to(scene.root).as_posix(), codes=(-9,), forgotten=(manifest, shard))


class Stopped:
    """A process that gets no time, whoever lets it go on."""

    def __init__(self, process: psutil.Process) -> None:
        self._process, self._ended = process, threading.Event()
        self._title = " ".join(process.cmdline())
        self._thread = threading.Thread(target=self._hold, daemon=True)
        self._thread.start()

    def __str__(self) -> str:
        return self._title

    def release(self) -> None:
        self._ended.set()
        self._thread.join(10)
        with suppress(psutil.NoSuchProcess):
            self._process.resume()

    def _hold(self) -> None:
        with suppress(psutil.NoSuchProcess):
            while not self._ended.wait(0.01):
                if self._process.status() not in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
                    self._process.suspend()


def _give_orders(scene: Scene, rng: random.Random, kinds: tuple[str, ...]) -> Struck | None:
    kind, num = rng.choice(kinds), rng.randint(1, 3)
    judges.give_orders(scene.orders, kind, num)
    return Struck(what=f"{num} calls: {kind}")


def _misbehave(scene: Scene, rng: random.Random, kinds: tuple[str, ...]) -> Struck | None:
    assert scene.endpoint is not None
    kind, num = rng.choice(kinds), rng.randint(1, 8)
    scene.endpoint.misbehave(kind, num)
    return Struck(what=f"{num} requests: {kind}")


def faults(hang_deadline_s: float) -> dict[str, Any]:
    """Every kind by its name."""
    return {
        "engine killed": kill_actor("RolloutActor"),
        "judge killed": kill_actor("JudgeActor"),
        "learner killed": kill_actor("LearnerActor"),
        "label server killed": kill_actor("LabelServerActor"),
        "driver killed": kill_driver,
        "raylet killed": kill_raylet,
        "judge calls late": disturb_calls,
        "judge calls spoilt": spoil_calls,
        "judge requests lost": disturb_requests,
        "judge requests spoilt": spoil_requests,
        "disk full": fill_disk,
        "engine hung": hang_engine(hang_deadline_s),
        "committed file cut": cut_committed,
        "uncommitted shard cut": cut_uncommitted,
        "job stopped": stop_job,
    }
