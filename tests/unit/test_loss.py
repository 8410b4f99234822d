"""The DPO loss against figures worked out from its definition, and what a step reports."""

import math

import pytest
import torch

from learner.loss import rewards
from learner.losses.margin import sigmoid_loss
from learner.metrics import PassOutput, measure, round_means, token_kl_sums
from tests.support.tiny_logps import pairs_of


def from_probabilities(chosen, rejected, ref_chosen, ref_rejected):
    return pairs_of(*(math.log(p) for p in (chosen, rejected, ref_chosen, ref_rejected)))


def test_loss_and_gradient_weight_of_the_known_pairs_of():
    logps = pairs_of(-4.5, -4.5, -5.0, -4.0, grad=True)
    loss_B = sigmoid_loss(logps, beta=0.1)
    loss_B.sum().backward()
    assert loss_B.item() == pytest.approx(0.64440, abs=1e-5)
    assert logps.chosen_logp_B.grad.item() / -0.1 == pytest.approx(0.47502, abs=1e-5)
    assert logps.rejected_logp_B.grad.item() / 0.1 == pytest.approx(0.47502, abs=1e-5)


@pytest.mark.parametrize(("policy", "expected"), [((0.25, 0.35), 0.67605), ((0.35, 0.05), 0.26896)])
def test_loss_from_probabilities(policy, expected):
    loss_B = sigmoid_loss(from_probabilities(*policy, 0.2, 0.3), beta=0.5)
    assert loss_B.item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.4])
def test_policy_equal_to_reference_loses_ln_2(label_smoothing):
    loss_B = sigmoid_loss(pairs_of(-3.0, -7.0, -3.0, -7.0), beta=0.3, label_smoothing=label_smoothing)
    assert loss_B.item() == pytest.approx(math.log(2), abs=1e-12)


def test_label_smoothing_by_hand():
    loss_B = sigmoid_loss(pairs_of(-4.5, -4.5, -5.0, -4.0), beta=0.1, label_smoothing=0.2)
    # -0.8 log sigmoid(0.1) - 0.2 log sigmoid(-0.1) = 0.64440 + 0.2 * 0.1
    by_hand = 0.8 * math.log(1 + math.exp(-0.1)) + 0.2 * math.log(1 + math.exp(0.1))
    assert loss_B.item() == pytest.approx(by_hand, abs=1e-12)
    assert loss_B.item() == pytest.approx(0.66440, abs=1e-5)


def test_swapping_the_answers_mirrors_the_loss():
    forward = sigmoid_loss(pairs_of(-4.0, -6.0, -5.0, -5.5), beta=0.2, label_smoothing=0.3)
    swapped = sigmoid_loss(pairs_of(-6.0, -4.0, -5.5, -5.0), beta=0.2, label_smoothing=0.7)
    assert forward.item() == pytest.approx(swapped.item(), abs=1e-12)


def test_loss_stays_finite_far_from_the_reference():
    assert sigmoid_loss(pairs_of(-1e6, 0.0, 0.0, -1e6), beta=1.0).item() == pytest.approx(2e6)
    assert sigmoid_loss(pairs_of(0.0, -1e6, -1e6, 0.0), beta=1.0).item() == 0.0


def test_rewards_are_scaled_log_ratios():
    chosen_B, rejected_B = rewards(pairs_of(-4.5, -4.5, -5.0, -4.0, grad=True), beta=0.1)
    assert (chosen_B.item(), rejected_B.item()) == (pytest.approx(0.05), pytest.approx(-0.05))
    assert not chosen_B.requires_grad


def test_kl_estimators_by_hand():
    mask_BT = torch.tensor([[False, True, True]])
    logps_BT = torch.tensor([[9.0, -1.0, -2.0]])
    k1, k3 = token_kl_sums(logps_BT, torch.tensor([[5.0, -1.5, -1.0]]), mask_BT)
    assert k1.item() == pytest.approx(0.5 - 1.0)
    assert k3.item() == pytest.approx((math.exp(-0.5) - 1 + 0.5) + (math.exp(1.0) - 1 - 1.0))


def test_a_steps_measures_weigh_pairs_and_tokens_alike_whatever_the_passes():
    def output(logps, k1, k3, num_tokens):
        loss_B = sigmoid_loss(logps, beta=0.1)
        sums = {"sum_k1": torch.tensor(k1), "sum_k3": torch.tensor(k3)}
        return PassOutput(logps=logps, loss_B=loss_B, num_completion_tokens=num_tokens, **sums)

    first = output(pairs_of(-4.5, -4.5, -5.0, -4.0), 3.0, 2.0, 10)
    second = output(pairs_of(-5.0, -4.0, -5.0, -5.0), 1.0, 4.0, 30)
    values = measure([first, second], beta=0.1)
    assert values["kl"] == pytest.approx(4.0 / 4)
    assert (values["kl_k1"], values["kl_k3"]) == (pytest.approx(4.0 / 40), pytest.approx(6.0 / 40))
    assert values["reward_chosen"] == pytest.approx((0.05 + 0.0) / 2)
    assert values["reward_rejected"] == pytest.approx((-0.05 + 0.1) / 2)
    assert values["reward_accuracy"] == 0.5
    assert values["logp_chosen"] == pytest.approx(-4.75)


def test_a_rounds_means_weigh_steps_by_their_pairs():
    steps = [
        {"loss": 0.6, "num_pairs": 3, "num_tokens": 30, "tokens_per_s": 7.0},
        {"loss": 0.2, "num_pairs": 1, "num_tokens": 5, "tokens_per_s": 9.0},
    ]
    assert round_means(steps) == {"loss": pytest.approx(0.5), "num_tokens": 35}
