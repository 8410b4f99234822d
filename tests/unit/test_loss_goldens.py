"""Every loss against a figure worked out by hand from its definition, in float64.

Unless a case says otherwise the pair is r(w) = -4.5 + 5 = 0.5 and r(l) = -4.5 + 4 = -0.5, so h = 1, with 5 chosen and
10 rejected tokens. S is the logistic function and L(x) = -log S(x) = log(1 + exp(-x)).
"""

import math
from typing import get_args

import pytest
import torch

from learner.loss import LOSSES, BatchTerms, rewards, total_loss
from learner.losses.margin import rao_kupper_loss
from learner.losses.pair_logps import link, pair_logps
from learner.losses.reference_free import nll_loss
from learner.losses.weights import staleness_weights, wpo_weights
from learner.objective_config import ObjectiveConfig
from learner.objectives import LOSS_OPTIONS, OBJECTIVES, LossName
from tests.support.tiny_logps import pairs_of


def S(x):
    return 1 / (1 + math.exp(-x))


def L(x):
    return math.log(1 + math.exp(-x))


KNOWN = (-4.5, -4.5, -5.0, -4.0)
FALLEN = (-5.5, -6.0, -5.0, -4.0)  # r(w) = -0.5, r(l) = -2, h = 1.5
DOUBLED = (math.log(2), -math.log(2), 0.0, 0.0)  # pi/ref is 2 and 1/2
ODDS = (5 * math.log(1 / 2), 10 * math.log(1 / 4))  # a token's probability is 1/2 and 1/4, so the odds 1 and 1/3
HALF = {"label_smoothing": 0.2}
SHARED = {"rejected_shared_logp": -2.0, "ref_rejected_shared_logp": -2.5}  # 0.5 within the first 5 tokens, -1 after
GOLDENS = [
    ("sigmoid", KNOWN, {"beta": 0.5}, L(0.5)),
    ("sigmoid", KNOWN, {"beta": 0.5, **HALF}, 0.8 * L(0.5) + 0.2 * L(-0.5)),
    # forward KL: (1 - e^-0.5) - (1 - e^0.5); Jensen-Shannon: log S(0.5) - log S(-0.5) = 0.5
    ("sigmoid", KNOWN, {"beta": 0.5, "f_divergence": "forward_kl"}, L(0.5 * (math.exp(0.5) - math.exp(-0.5)))),
    ("sigmoid", KNOWN, {"beta": 0.5, "f_divergence": "jensen_shannon"}, L(0.25)),
    # alpha 1/2: ((1 - e^-0.25) - (1 - e^0.25)) / 0.5
    (
        "sigmoid",
        KNOWN,
        {"beta": 0.5, "f_divergence": "alpha", "f_alpha": 0.5},
        L(math.exp(0.25) - math.exp(-0.25)),
    ),
    ("robust", KNOWN, {"beta": 0.5, **HALF}, (0.8 * L(0.5) - 0.2 * L(-0.5)) / 0.6),
    ("hinge", KNOWN, {"beta": 0.5}, 0.5),
    ("hinge", KNOWN, {"beta": 2.0}, 0.0),
    ("ipo", KNOWN, {"beta": 0.25, "ipo_form": "sum"}, (1 - 2) ** 2),
    ("ipo", KNOWN, {"beta": 0.25, "ipo_form": "mean"}, (0.5 / 5 + 0.5 / 10 - 2) ** 2),
    (
        "exo_pair",
        KNOWN,
        {"beta": 0.5, **HALF},
        S(0.5) * (-L(0.5) - math.log(0.8)) + S(-0.5) * (-L(-0.5) - math.log(0.2)),
    ),
    ("nca_pair", KNOWN, {"beta": 0.5}, L(0.25) + 0.5 * L(-0.25) + 0.5 * L(0.25)),
    ("bco_pair", KNOWN, {"beta": 0.5, "reward_shift": 0.1}, L(0.25 - 0.1) + L(0.25 + 0.1)),
    ("bco_pair", KNOWN, {"beta": 0.5, "reward_shift": 0.0}, 2 * L(0.25)),
    ("sppo_hard", KNOWN, {"beta": 0.5}, (0.5 - 1) ** 2 + (-0.5 + 1) ** 2),
    ("aot", KNOWN, {"beta": 0.5}, L(0.5)),
    ("apo_zero", KNOWN, {"beta": 0.5}, 2 * S(-0.25)),
    ("apo_down", KNOWN, {"beta": 0.5}, S(0.25) + S(-0.5)),
    ("discopop", KNOWN, {"beta": 0.5, "discopop_tau": 0.25}, L(0.5) * (1 - S(2)) + math.exp(-0.5) * S(2)),
    ("sigmoid_norm", KNOWN, {"beta": 2.0}, L(2 * (0.5 / 5 + 0.5 / 10))),
    # 2 (-4.5 / 5 + 4.5 / 10) - 0.3
    ("simpo", KNOWN, {"beta": 2.0, "simpo_gamma": 0.3}, L(-1.2)),
    ("simpo", KNOWN, {"beta": 2.0, "simpo_gamma": 0.3, **HALF}, 0.8 * L(-1.2) + 0.2 * L(1.2)),
    # -log 1/2 + 1/2 L(log 3), and L(log 3) = log(1 + 1/3)
    ("orpo", ODDS, {"beta": 0.5}, math.log(2) + 0.5 * math.log(4 / 3)),
    ("r_dpo", KNOWN, {"beta": 0.5, "length_margin": 0.01}, L(0.5 + 0.01 * (5 - 10))),
    # rejected: 0.5 + 0.5 * (-1) = 0
    ("ld_dpo", (*KNOWN, SHARED), {"beta": 0.5, "ld_alpha": 0.5}, L(0.5 * (0.5 - 0.0))),
    ("ld_dpo", (*KNOWN, SHARED), {"beta": 0.5, "ld_alpha": 1.0}, L(0.5)),
    ("dpop", KNOWN, {"beta": 0.5, "dpop_lambda": 5.0}, L(0.5)),
    ("dpop", FALLEN, {"beta": 0.5, "dpop_lambda": 5.0}, L(0.5 * (1.5 - 5 * 0.5))),
    # (2 + log 2) - (1/2 - log 2)
    ("chi_po", DOUBLED, {"beta": 0.5, "chi_po_max_reward": None}, L(0.5 * (1.5 + 2 * math.log(2)))),
    ("chi_po", DOUBLED, {"beta": 0.5, "chi_po_max_reward": 0.5}, L(1.0)),
    ("xpo", KNOWN, {"beta": 0.5, "xpo_alpha": 0.1}, L(0.5) + 0.1 * -4.5),
    ("rao_kupper", KNOWN, {"beta": 0.5, "rao_kupper_nu": 3.0}, L(0.5 - math.log(3))),
    (
        "rao_kupper",
        (*KNOWN, {"tied": True}),
        {"beta": 0.5, "rao_kupper_nu": 3.0},
        L(0.5 - math.log(3)) + L(-0.5 - math.log(3)) - math.log(8),
    ),
]
KTO = {"beta": 0.5, "desirable_weight": 2.0, "undesirable_weight": 0.5, "kl_estimate": 0.1, "answers_per_row": 2.0}
GOLDENS += [
    # 1 - S(0.5 (0.5 - 0.1)) = S(-0.2), 1 - S(0.5 (0.1 + 0.5)) = S(-0.3)
    ("kto", KNOWN, KTO, (2 * S(-0.2) + 0.5 * S(-0.3)) / 2),
    ("kto", (*KNOWN, {"num_rejected": 0}), {**KTO, "answers_per_row": 1.0}, 2 * S(-0.2)),
    ("kto", (*KNOWN, {"num_chosen": 0}), {**KTO, "answers_per_row": 1.5}, 0.5 * S(-0.3) / 1.5),
]


def made(numbers):
    *columns, last = numbers
    return pairs_of(*columns, **last) if isinstance(last, dict) else pairs_of(*numbers)


@pytest.mark.parametrize(("name", "numbers", "options", "expected"), GOLDENS)
def test_a_loss_is_what_its_equation_says(name, numbers, options, expected):
    loss_B = LOSSES[name](made(numbers), **options)
    assert loss_B.shape == (1,)
    assert loss_B.item() == pytest.approx(expected, abs=1e-12)


def test_every_loss_has_a_golden_figure_and_a_place_in_every_table():
    assert {name for name, *_ in GOLDENS} == set(LOSSES) == set(OBJECTIVES) == set(get_args(LossName))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_takes_the_settings_and_terms_that_its_entry_names(name):
    import inspect

    objective = OBJECTIVES[name]
    takes = [p.name for p in inspect.signature(LOSSES[name]).parameters.values() if p.kind == p.KEYWORD_ONLY]
    assert sorted(takes) == sorted(["beta", *objective.options, *objective.terms])
    assert set(LOSS_OPTIONS) <= set(ObjectiveConfig.model_fields)
    assert objective.options == () or set(objective.options) <= set(LOSS_OPTIONS)


def test_aot_holds_sorted_margins_against_sorted_margins():
    # policy margins 3 and 1, reference margins -1 and 2: sorted 1, 3 against -1, 2
    logps = pairs_of([-1.0, -2.0], [-4.0, -3.0], [-3.0, -1.0], [-2.0, -3.0])
    loss_B = LOSSES["aot"](logps, beta=0.5, label_smoothing=0.0)
    assert loss_B.tolist() == pytest.approx([L(0.5 * 2), L(0.5 * 1)], abs=1e-12)


@pytest.mark.parametrize("margin", [-2.0, 0.0, 0.7])
def test_rao_kupper_probabilities_add_up_to_one(margin):
    def probability(value, tied):
        loss_B = rao_kupper_loss(pairs_of(value, 0.0, tied=tied), beta=1.0, rao_kupper_nu=3.0)
        return math.exp(-loss_B.item())

    total = probability(margin, False) + probability(-margin, False) + probability(margin, True)
    assert total == pytest.approx(1.0, abs=1e-12)
    # Two equals tie with probability (nu^2 - 1) / (1 + nu)^2 = 8 / 16.
    assert probability(0.0, True) == pytest.approx(0.5, abs=1e-12)


def test_links_have_the_slope_of_a_log_ratio_at_the_reference():
    """Every f'' is 1 where policy and reference agree, so beta means the same there for each of them but JS (1/2)."""
    slopes = {}
    for name in ("reverse_kl", "forward_kl", "jensen_shannon", "alpha"):
        ratio_B = torch.zeros(1, dtype=torch.float64, requires_grad=True)
        link(ratio_B, f_divergence=name, f_alpha=0.3).backward()
        slopes[name] = ratio_B.grad.item()
    assert slopes == pytest.approx({"reverse_kl": 1.0, "forward_kl": 1.0, "jensen_shannon": 0.5, "alpha": 1.0})


def test_links_stay_finite_where_the_policy_has_left_an_answer():
    for name in ("forward_kl", "alpha"):
        assert torch.isfinite(link(torch.tensor([-1e5]), f_divergence=name, f_alpha=0.5)).all()
    chi = LOSSES["chi_po"](pairs_of(1e4, -1e4), beta=0.1, chi_po_max_reward=None)
    assert torch.isfinite(chi).all()


def test_likelihood_a_token_and_its_absence_by_hand():
    assert nll_loss(pairs_of(-4.5, -9.0)).item() == pytest.approx(0.9)
    assert nll_loss(pairs_of(-4.5, -9.0, tied=True)).item() == 0
    assert nll_loss(pairs_of(0.0, -9.0, num_chosen=0)).item() == 0


def test_weights_by_hand_and_without_gradient():
    # exp(-4.5 / 5) exp(-9 / 10)
    logps = pairs_of(-4.5, -9.0, grad=True, sampled_chosen_logp=-5.5, sampled_rejected_logp=-8.0)
    assert wpo_weights(logps).item() == pytest.approx(math.exp(-1.8))
    # log ratios 1 and -1; a token's 0.2 and -0.1; the ratio e of the chosen answer is cut at 2
    assert staleness_weights(logps, form="sequence", clip=2.0).item() == pytest.approx(2.0 * math.exp(-1.0))
    assert staleness_weights(logps, form="token", clip=2.0).item() == pytest.approx(math.exp(0.2 - 0.1))
    # each of 5 tokens is e^0.2 times as likely as what the policy draws itself, each of 10 e^-0.4 times
    aligned = pairs_of(-4.5, -9.0, grad=True, chosen_certainty=-5.5, rejected_certainty=-5.0)
    assert wpo_weights(aligned, alignment="sampled").item() == pytest.approx(math.exp(0.2 - 0.4), abs=1e-12)
    alone = pairs_of(-4.5, 0.0, num_rejected=0, chosen_certainty=-5.5)
    assert wpo_weights(alone, alignment="sampled").item() == pytest.approx(math.exp(0.2), abs=1e-12)
    assert not wpo_weights(logps).requires_grad
    assert not wpo_weights(aligned, alignment="sampled").requires_grad
    assert not staleness_weights(logps, form="token", clip=2.0).requires_grad


def test_a_mixture_weighs_its_parts_and_adds_the_likelihood_term():
    settings = ObjectiveConfig.model_validate(
        {"loss": [{"name": "sigmoid", "weight": 0.8}, {"name": "bco_pair", "weight": 0.2}], "nll_weight": 0.5}
    )
    loss_B = total_loss(made(KNOWN), settings, BatchTerms(beta=0.5, reward_shift=0.1))
    by_hand = 0.8 * L(0.5) + 0.2 * (L(0.15) + L(0.35)) + 0.5 * 4.5 / 5
    assert loss_B.item() == pytest.approx(by_hand, abs=1e-12)


def test_pair_weights_scale_the_preference_and_not_the_likelihood_term():
    plain = {"loss": "sigmoid", "nll_weight": 0.5}
    settings = ObjectiveConfig.model_validate(
        {**plain, "wpo": True, "wpo_alignment": "none", "staleness_weights": "token"}
    )
    logps = pairs_of(*KNOWN, sampled_chosen_logp=-5.0, sampled_rejected_logp=-4.5, chosen_certainty=-3.0)
    loss_B = total_loss(logps, settings, BatchTerms(beta=0.5))
    weight = math.exp(-4.5 / 5 - 4.5 / 10) * math.exp(0.5 / 5)
    assert loss_B.item() == pytest.approx(weight * L(0.5) + 0.5 * 0.9, abs=1e-12)
    aligned = settings.model_copy(update={"wpo_alignment": "sampled"})
    loss_B = total_loss(logps, aligned, BatchTerms(beta=0.5))
    assert loss_B.item() == pytest.approx(weight * math.exp(3 / 5) * L(0.5) + 0.5 * 0.9, abs=1e-12)


def test_rewards_without_a_reference_are_those_of_a_token():
    chosen_B, rejected_B = rewards(pairs_of(-4.5, -9.0, has_reference=False), beta=2.0)
    assert (chosen_B.item(), rejected_B.item()) == (pytest.approx(-1.8), pytest.approx(-1.8))


def test_columns_are_sums_of_rows_and_shared_sums_end_with_the_shorter_answer():
    # one pair: a chosen answer of 2 tokens from column 1 on, a rejected one of 3 from column 0 on
    mask_RT = torch.tensor([[False, True, True, False], [True, True, True, False]])
    logps_RT = torch.tensor([[0.0, -1.0, -2.0, 0.0], [-1.0, -3.0, -5.0, 0.0]])
    logps = pair_logps(
        logps_RT,
        2 * logps_RT,
        mask_RT,
        tied_B=torch.tensor([False]),
        sampled_R=torch.tensor([-7.0, -8.0]),
        certainty_RT=torch.tensor([[0.0, -0.5, -0.5, 0.0], [-0.5, -1.0, -0.5, 0.0]]),
    )
    numbers = {name: value.item() for name, value in logps.tensors.items()}
    assert numbers == {
        "chosen_logp_B": -3, "rejected_logp_B": -9, "ref_chosen_logp_B": -6, "ref_rejected_logp_B": -18,
        "num_chosen_B": 2, "num_rejected_B": 3, "chosen_shared_logp_B": -3, "rejected_shared_logp_B": -4,
        "ref_chosen_shared_logp_B": -6, "ref_rejected_shared_logp_B": -8, "tied_B": False,
        "sampled_chosen_logp_B": -7, "sampled_rejected_logp_B": -8,
        "chosen_certainty_B": -1, "rejected_certainty_B": -2,
    }  # fmt: skip
    free = pair_logps(logps_RT, None, mask_RT, tied_B=torch.tensor([False]), sampled_R=torch.zeros(2))
    assert (free.has_reference, free.ref_chosen_logp_B.item(), free.chosen_certainty_B.item()) == (False, 0, 0)
