"""Compiled decoder blocks: made once for all lengths, and equal to eager ones."""

import pytest
import torch

from learner.blocks import apply_to_blocks
from learner.config import LearnerConfig
from learner.logps import CompletionLogps
from tests.support.tiny_models import random_sequences, tiny_model

pytestmark = pytest.mark.integration

TREES = [(3, [7, 2, 5]), (1, [1, 4]), (9, [6]), (2, [0, 3])]
BATCHES = [TREES[:2], TREES, TREES[1:]]


def passes(settings):
    """Log-probabilities and gradients of one pass after the other."""
    model, found = tiny_model("llama"), []
    logps_of = CompletionLogps(model)
    apply_to_blocks(model, settings)
    for trees in BATCHES:
        model.zero_grad()
        logps_SC = logps_of(random_sequences(trees)).logps_SC
        logps_SC.square().sum().backward()
        found.append((logps_SC.detach(), [parameter.grad.clone() for parameter in model.parameters()]))
    return found


def test_compiled_blocks_agree_with_eager_ones_and_are_compiled_once():
    """Alone and under checkpoints, over three batches of other lengths and numbers of groups."""
    expected = passes(LearnerConfig())
    graphs = torch._dynamo.utils.counters["stats"]
    seen = []
    for checkpointing in ("off", "blocks"):
        found = passes(LearnerConfig(compile="blocks", activation_checkpointing=checkpointing))
        seen.append(graphs["unique_graphs"])
        for (logps, grads), (eager_logps, eager_grads) in zip(found, expected, strict=True):
            torch.testing.assert_close(logps, eager_logps, atol=1e-5, rtol=0)
            for one, other in zip(grads, eager_grads, strict=True):
                torch.testing.assert_close(one, other, atol=1e-5 * max(1.0, other.abs().max().item()), rtol=0)
    assert 0 < seen[0] == seen[1] <= 4, "a block is two graphs, before its attention and behind it"
