"""Where the files of a run lie, for those who share it from several machines."""

import contextlib
import os
from pathlib import Path
from typing import Protocol


class Storage(Protocol):
    """A run directory as its drivers see it from wherever they are. Names are relative to it."""

    def create(self, name: str, data: bytes) -> bool:
        """Make a small file that nobody else may make; False where it exists already. Only one of many succeeds."""

    def replace(self, name: str, data: bytes) -> None:
        """Write a small file that exists anew, over what it held."""

    def read(self, name: str) -> bytes | None:
        """The bytes of a small file, or None where there is none."""

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder; none where it does not exist."""

    def remove(self, name: str) -> None:
        """Delete a file, if it is there."""


class Folder:
    """A folder of this machine, or one that several machines mount."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, name: str, data: bytes) -> bool:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    def replace(self, name: str, data: bytes) -> None:
        with open(self._root / name, "r+b") as file:
            file.write(data)
            file.truncate()

    def read(self, name: str) -> bytes | None:
        try:
            return (self._root / name).read_bytes()
        except FileNotFoundError:
            return None

    def names(self, folder: str) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(self._root / folder))
        return []

    def remove(self, name: str) -> None:
        (self._root / name).unlink(missing_ok=True)
