"""What objectives remember from step to step, by hand."""

import pytest
import torch

from learner.adaptive import ObjectiveState, advanced, at_round_start, batch_beta, kept_weights
from learner.objective_config import ObjectiveConfig

VALUES = {"reward_chosen": 0.5, "reward_rejected": -0.1, "reward_margin": 0.6, "reward_margin_spread": 2.0, "kl": 3.0}


def settings(**values):
    return ObjectiveConfig.model_validate(values)


def test_the_reward_shift_is_the_mean_of_every_answer_so_far():
    state = advanced(ObjectiveState(), settings(loss="bco_pair"), VALUES, num_pairs=3)
    assert state.reward_mean == pytest.approx(0.2)
    state = advanced(state, settings(loss="bco_pair"), {**VALUES, "reward_chosen": -0.3}, num_pairs=1)
    # 3 pairs with 0.4 in sum, 1 with -0.4: 0.8 over 8 answers
    assert state.reward_mean == pytest.approx(0.1)
    assert ObjectiveState().reward_mean == 0.0


def test_an_objective_without_memory_keeps_none():
    assert advanced(ObjectiveState(), settings(), VALUES, num_pairs=3) == ObjectiveState()


def test_the_kl_controller_moves_beta_towards_its_target_and_only_so_far():
    def scale(kl):
        chosen = settings(kl_target=2.0, kl_gain=0.5)
        return advanced(ObjectiveState(beta_scale=2.0), chosen, {**VALUES, "kl": kl}, num_pairs=1).beta_scale

    assert scale(2.0) == 2.0
    assert scale(2.2) == pytest.approx(2.0 * (1 + 0.5 * 0.1))
    assert scale(100.0) == pytest.approx(2.0 * (1 + 0.5 * 0.2))
    assert scale(-5.0) == pytest.approx(2.0 * (1 - 0.5 * 0.2))


def test_the_kl_controller_settles_where_the_kl_answers_beta():
    """A policy whose KL is 1 / beta: beta ends at 1 / target."""
    state, chosen = ObjectiveState(), settings(beta=1.0, kl_target=4.0, kl_gain=0.3)
    for _ in range(300):
        state = advanced(state, chosen, {**VALUES, "kl": 1 / state.beta_scale}, num_pairs=1)
    assert state.beta_scale == pytest.approx(0.25, rel=1e-3)


def test_beta_dpo_follows_the_batch_and_remembers_the_mean():
    chosen = settings(beta_dpo_alpha=0.6, beta_dpo_momentum=0.9)
    state = advanced(ObjectiveState(margin_mean=1.0, margin_spread=1.0), chosen, VALUES, num_pairs=2)
    assert (state.margin_mean, state.margin_spread) == (pytest.approx(0.9 + 0.06), pytest.approx(0.9 + 0.2))
    assert batch_beta(1.5, beta=0.1, settings=chosen, state=ObjectiveState(margin_mean=1.0)) == pytest.approx(0.13)
    assert batch_beta(-99.0, beta=0.1, settings=chosen, state=ObjectiveState()) == pytest.approx(0.001)


def test_beta_dpos_filter_keeps_its_share_near_the_mean_and_the_mean_weight():
    chosen, state = settings(beta_dpo_alpha=0.6, beta_dpo_keep=0.5), ObjectiveState(margin_mean=0.0, margin_spread=0.1)
    margin_B = torch.tensor([0.0, 50.0, 0.05, -0.05, 60.0, 70.0])
    torch.manual_seed(0)
    weights_B = kept_weights(margin_B, settings=chosen, state=state)
    assert weights_B.tolist() == [2.0, 0.0, 2.0, 2.0, 0.0, 0.0]
    draws = []
    for _ in range(2):
        torch.manual_seed(3)
        draws.append(kept_weights(torch.zeros(64), settings=chosen, state=state))
    assert torch.equal(*draws)
    assert draws[0].mean() == 1.0


def test_a_reference_that_starts_anew_forgets_the_rewards_and_not_beta():
    state = ObjectiveState(beta_scale=1.5, reward_sum=3.0, num_rewards=4, margin_mean=1.0, margin_spread=1.0)
    assert at_round_start(state, settings(reference="round_start")) == ObjectiveState(beta_scale=1.5)
    assert at_round_start(state, settings()) == state
