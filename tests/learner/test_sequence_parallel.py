"""Ranks that share the tokens of a row: the log-probabilities, gradients and losses of one rank, on real processes."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from learner.config import LearnerConfig
from learner.logps import CompletionLogps
from learner.packing import filled_up, pack
from learner.ranks import Ranks
from rollout.errors import UsageError
from tests.learner.test_ranks import SMALL_PASSES, assert_close, one_and_many, weights
from tests.support.rank_processes import on_ranks
from tests.support.tiny_models import random_sequences, tiny_model

CPU = torch.device("cpu")
# Prompts with several answers, one that is empty, an answer longer than a rank's share, and 49 tokens in all.
TREES = [(3, [7, 2, 5]), (1, [1, 4]), (9, [17]), (2, [0, 3])]


def scored(ranks, family, trees):
    """Log-probabilities, the policy's certainty and every parameter's gradient of a loss that no token leaves out."""
    model = tiny_model(family).double()
    logps_of = CompletionLogps(model, ranks=ranks, certainty=True)
    masters, rows = ranks.masters(model), ranks.rows(model)
    logps_SC, _, certainty_SC = logps_of(random_sequences(trees))
    weights_SC = torch.linspace(0.5, 2.0, logps_SC.numel(), dtype=torch.float64).reshape(logps_SC.shape)
    (logps_SC.square() * weights_SC).sum().backward()
    if ranks.num_ranks > 1:
        ranks.collect_gradients(model, masters)
    gradients = {
        name: torch.nn.Parameter(torch.zeros_like(master) if master.grad is None else master.grad.to_dense())
        for name, master in masters.items()
    }
    gathered = ranks.whole(gradients, rows)
    return logps_SC.detach().numpy(), certainty_SC.numpy(), {name: grad.numpy() for name, grad in gathered.items()}


@pytest.mark.parametrize(
    ("family", "num_ranks", "trees"),
    [("llama", 4, TREES), ("gpt2", 2, TREES), ("qwen3", 4, [(1, [2])])],
    ids=str,
)
def test_values_and_gradients_are_those_of_one_rank(family, num_ranks, trees):
    """Four heads, two of keys; the last row has fewer tokens than ranks, so most of them have only filling."""
    logps_SC, certainty_SC, gradients = scored(Ranks(), family, trees)
    of_ranks = on_ranks(num_ranks, scored, family, trees, num_sequence=num_ranks)
    for own_SC, own_certainty_SC, _ in of_ranks:
        np.testing.assert_allclose(own_SC, logps_SC, atol=1e-10, rtol=0)
        np.testing.assert_allclose(own_certainty_SC, certainty_SC, atol=1e-10, rtol=0)
    found = of_ranks[0][2]
    assert found.keys() == gradients.keys()
    assert max(np.abs(gradient).max() for gradient in gradients.values()) > 0.1
    for name, gradient in gradients.items():
        np.testing.assert_allclose(found[name], gradient, atol=1e-9, rtol=0, err_msg=name)


@pytest.mark.parametrize(
    ("num_ranks", "settings"),
    [
        (2, {"loss": "sigmoid", "activation_checkpointing": "blocks", "wpo": True, **SMALL_PASSES}),
        (4, {"loss": "aot", **SMALL_PASSES}),
        (4, {"loss": "kto", "lora": {"rank": 4, "alpha": 8}}),
    ],
    ids=str,
)
def test_teams_of_two_learn_what_one_rank_does(tmp_path, num_ranks, settings):
    roots, steps, update, of_ranks = one_and_many(tmp_path, settings, num_ranks=num_ranks, num_sequence=2)
    for ((own_steps, own_update),) in of_ranks:
        assert_close(own_steps, steps)
        assert own_update.metrics == pytest.approx(update.metrics, rel=1e-4, abs=1e-5)
    assert (weights(roots[1], update.policy_out) - weights(roots[0], update.policy_out)).abs().max() < 1e-5


def refused(ranks, family):
    with pytest.raises(UsageError) as found:
        CompletionLogps(tiny_model(family), ranks=ranks)
    return str(found.value)


@pytest.mark.parametrize(
    ("family", "num_ranks", "words"),
    [("llama", 3, "it has 4 heads, expected a multiple of 3"), ("bloom", 2, "it cannot be packed")],
)
def test_models_whose_rows_cannot_be_shared_are_refused(family, num_ranks, words):
    for said in on_ranks(num_ranks, refused, family, num_sequence=num_ranks):
        assert words in said
        assert "\n" not in said


def test_ranks_that_do_not_fill_their_teams_are_refused():
    with pytest.raises(ValidationError, match="expected the latter to divide the former"):
        LearnerConfig(num_ranks=4, sequence_parallel=3)
    assert LearnerConfig(num_ranks=4, sequence_parallel=2).sequence_parallel == 2


def test_a_row_is_filled_up_with_tokens_that_nobody_sees():
    packed = pack(random_sequences(TREES), device=CPU)
    num_tokens = len(packed.input_ids_N)
    more = filled_up(packed, multiple=num_tokens + 3)
    assert len(more.input_ids_N) == len(more.position_ids_N) == num_tokens + 3
    assert more.groups[:-1] == packed.groups
    assert (more.groups[-1].prompt, more.groups[-1].completions) == ((num_tokens, num_tokens + 3), ())
    np.testing.assert_array_equal(more.predictors_M, packed.predictors_M)
    assert filled_up(packed, multiple=num_tokens) is packed
