"""Where the data lies that no one here wrote: beside the repository, or where RONDO_SHARED_DATA says."""

import os
from pathlib import Path

import pytest

_BESIDE = Path(__file__).parents[3] / "shared" / "data"


def shared_data(name: str) -> Path:
    """The path of a file of the shared data; skips the test, with the reason, where it is absent."""
    path = Path(os.environ.get("RONDO_SHARED_DATA", _BESIDE)) / name
    if not path.exists():
        pytest.skip(f"{path} is absent; set RONDO_SHARED_DATA to the folder that holds it")
    return path
