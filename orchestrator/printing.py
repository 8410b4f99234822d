"""What commands print on standard output."""

import json
import sys
from typing import Any

from rich.console import Console


def standard_output() -> Console:
    """Standard output as wide as a table wants where it is no terminal."""
    return Console() if sys.stdout.isatty() else Console(width=120)


def print_json(value: Any) -> None:
    """One JSON object, and nothing else there."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")
