"""The files of a run that do not depend on when and where it ran."""

import hashlib
from pathlib import Path

COMPARED = ("rounds", "policies", "learner")


def digest(root: Path) -> dict[str, str]:
    """sha256 by path relative to the run directory."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for top in COMPARED
        for path in sorted((root / top).rglob("*"))
        if path.is_file() and ".tmp-" not in path.name
    }
