"""Every objective is learnt alike, however a batch is split into passes."""

import pytest

from learner.objectives import OBJECTIVES
from tests.support.tiny_learner import two_steps
from tests.support.tiny_policy import make_tiny_policy

pytestmark = pytest.mark.integration

EXTRA = {"exo_pair": {"label_smoothing": 0.1}, "simpo": {"beta": 2.0}}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_split_into_passes_leaves_every_objective_unchanged(tmp_path, name):
    """AOT above all: each pass sees some of the pairs, and the loss is still that of the whole batch."""
    make_tiny_policy(tmp_path / "policies/v0000")
    settings = {"loss": name, "learning_rate": 1e-4, **EXTRA.get(name, {})}
    whole, parts = (
        two_steps(tmp_path, {**settings, "max_tokens_per_microbatch": max_tokens}) for max_tokens in (16384, 60)
    )
    for a, b in zip(whole, parts, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5, abs=1e-6)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
