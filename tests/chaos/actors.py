"""The processes of a run's actors, by the names that Ray gives them."""

import contextlib

import psutil

ACTORS = ("RolloutActor", "JudgeActor", "LearnerActor", "LabelServerActor")


def actors_of(name: str, *, under: psutil.Process | None = None) -> list[psutil.Process]:
    """The living processes of one kind of actor that descend from `under`, or from this process, by their ids."""
    found = []
    with contextlib.suppress(psutil.NoSuchProcess):
        for process in (under or psutil.Process()).children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied, IndexError):
                alive = process.status() != psutil.STATUS_ZOMBIE
                if alive and process.cmdline()[0].startswith(f"ray::{name}"):
                    found.append(process)
    return sorted(found, key=lambda process: process.pid)
