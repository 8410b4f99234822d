"""What starting processes leave out."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.integration


def test_starting_lean_leaves_out_what_is_never_used():
    code = (
        "import sys; from rollout.lean import import_transformers_lean; import_transformers_lean(); "
        "from transformers import AutoModelForCausalLM as model; model.from_pretrained; print('sklearn' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "False"
