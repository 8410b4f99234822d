"""What must hold of the losses whatever the numbers: gradients, limits, symmetries."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.loss import LOSSES
from learner.losses.pair_logps import POLICY_COLUMNS, PairLogps
from learner.objective_config import ObjectiveConfig
from learner.objectives import OBJECTIVES
from tests.support.tiny_logps import pairs_of

LN_2 = math.log(2)
TERMS = {"reward_shift": 0.2, "kl_estimate": 0.3, "answers_per_row": 2.0}
LINKED = [(name, link) for name in ("sigmoid", "ipo") for link in ("forward_kl", "jensen_shannon", "alpha")]
numbers = st.floats(-20, 0, allow_nan=False)
betas = st.floats(0.01, 2)


def options_of(name, **changed):
    """A loss's options as the configuration has them, with a label smoothing that EXO can take."""
    objective, settings = OBJECTIVES[name], ObjectiveConfig()
    options = {option: getattr(settings, option) for option in objective.options}
    options |= {term: TERMS[term] for term in objective.terms}
    if "label_smoothing" in options:
        options["label_smoothing"] = 0.1
    return {**options, **changed}


def evaluate(name, logps, *, beta, **changed):
    return LOSSES[name](logps, beta=beta, **options_of(name, **changed))


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *((name, {}) for name in LOSSES),
        *((name, {"f_divergence": link}) for name, link in LINKED),
        ("ipo", {"ipo_form": "sum"}),
        ("chi_po", {"chi_po_max_reward": 5.0}),
    ],
)
def test_a_gradient_agrees_with_differences(name, changed):
    torch.manual_seed(0)
    policy = [(-5 * torch.rand(4, dtype=torch.float64) - 1).requires_grad_() for _ in POLICY_COLUMNS]
    rest = pairs_of(*[[0.0] * 4] * 2, *(-5 * torch.rand(2, 4, dtype=torch.float64) - 1).tolist()).tensors
    rest["tied_B"] = torch.tensor([False, True, False, True])

    def of(*columns):
        logps = PairLogps(**{**rest, **dict(zip(POLICY_COLUMNS, columns, strict=True))})
        return evaluate(name, logps, beta=0.7, **changed)

    assert torch.autograd.gradcheck(of, policy)
    assert all(
        torch.isfinite(grad).all()
        for grad in torch.autograd.grad(of(*policy).sum(), policy, allow_unused=True)
        if grad is not None
    )


# Where policy and reference are the same, h and both log ratios are zero; label smoothing is 0.1.
AT_REFERENCE = {
    "sigmoid": lambda beta: LN_2,
    "robust": lambda beta: LN_2,
    "ipo": lambda beta: 1 / (4 * beta**2),
    "hinge": lambda beta: 1.0,
    "exo_pair": lambda beta: -LN_2 - 0.5 * math.log(0.9) - 0.5 * math.log(0.1),
    "nca_pair": lambda beta: 2 * LN_2,
    "bco_pair": lambda beta: math.log(1 + math.exp(0.2)) + math.log(1 + math.exp(-0.2)),
    "sppo_hard": lambda beta: 1 / (2 * beta**2),
    "aot": lambda beta: LN_2,
    "apo_zero": lambda beta: 1.0,
    "apo_down": lambda beta: 1.0,
    "discopop": lambda beta: LN_2 / 2 + 0.5,
    "sigmoid_norm": lambda beta: LN_2,
    "ld_dpo": lambda beta: LN_2,
    "dpop": lambda beta: LN_2,
    "chi_po": lambda beta: LN_2,
    "rao_kupper": lambda beta: math.log(4),  # log(1 + nu)
}


@given(chosen=numbers, rejected=numbers, beta=betas)
def test_where_policy_and_reference_agree_the_loss_does_not_depend_on_the_pair(chosen, rejected, beta):
    logps = pairs_of(chosen, rejected, chosen, rejected)
    for name, expected in AT_REFERENCE.items():
        assert evaluate(name, logps, beta=beta).item() == pytest.approx(expected(beta), rel=1e-9), name
    length_only = -5 * 0.01  # r_dpo: length_margin (5 - 10)
    assert evaluate("r_dpo", logps, beta=beta).item() == pytest.approx(math.log(1 + math.exp(-length_only)))


@given(values=st.tuples(numbers, numbers, numbers, numbers), beta=betas)
def test_swapping_a_pair_costs_exactly_its_margin(values, beta):
    """L(m) - L(-m) = -m for every loss that is -log sigmoid of a margin which turns round with the pair."""
    chosen, rejected, ref_chosen, ref_rejected = values
    there = pairs_of(chosen, rejected, ref_chosen, ref_rejected, num_rejected=5)
    back = pairs_of(rejected, chosen, ref_rejected, ref_chosen, num_rejected=5)
    h = (chosen - ref_chosen) - (rejected - ref_rejected)
    plain = {"label_smoothing": 0.0}
    cases = {
        "sigmoid": (plain, beta * h),
        "sigmoid_norm": (plain, beta * h / 5),
        "ld_dpo": (plain, beta * h),
        "r_dpo": ({}, beta * h),
        "simpo": ({**plain, "simpo_gamma": 0.0}, beta * (chosen - rejected) / 5),
        "aot": (plain, beta * h),
    }
    for name, (changed, margin) in cases.items():
        change = evaluate(name, there, beta=beta, **changed) - evaluate(name, back, beta=beta, **changed)
        assert change.item() == pytest.approx(-margin, abs=1e-9), name


@given(values=st.tuples(numbers, numbers, numbers, numbers), beta=betas, flipped=st.floats(0, 0.45))
def test_robust_dpo_is_unbiased_under_flipped_labels(values, beta, flipped):
    chosen, rejected, ref_chosen, ref_rejected = values
    there = pairs_of(chosen, rejected, ref_chosen, ref_rejected)
    back = pairs_of(rejected, chosen, ref_rejected, ref_chosen)
    expected = evaluate("sigmoid", there, beta=beta, label_smoothing=0.0).item()
    mean = (1 - flipped) * evaluate("robust", there, beta=beta, label_smoothing=flipped).item()
    mean += flipped * evaluate("robust", back, beta=beta, label_smoothing=flipped).item()
    assert mean == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["sigmoid", "aot", "ld_dpo", "dpop"])
def test_as_beta_goes_to_zero_the_loss_falls_by_half_the_margin(name):
    logps = pairs_of(-4.0, -6.0, -5.0, -5.5)  # h = 1 + 0.5
    beta = 1e-6
    changed = {"label_smoothing": 0.0} if "label_smoothing" in options_of(name) else {}
    if name == "ld_dpo":
        changed["ld_alpha"] = 1.0
    slope = (evaluate(name, logps, beta=beta, **changed).item() - LN_2) / beta
    assert slope == pytest.approx(-1.5 / 2, abs=1e-5)


@pytest.mark.parametrize("link", ["reverse_kl", "forward_kl", "jensen_shannon", "alpha"])
@given(low=numbers, step=st.floats(0.01, 5))
def test_a_likelier_chosen_answer_never_costs_more(link, low, step):
    before, after = (pairs_of(chosen, -3.0, -3.0, -3.0) for chosen in (low, low + step))
    losses = [evaluate("sigmoid", logps, beta=0.5, f_divergence=link, label_smoothing=0.0) for logps in (before, after)]
    assert losses[1].item() <= losses[0].item()


def test_alpha_divergence_goes_from_reverse_to_forward_kl():
    logps = pairs_of(-4.5, -4.5, -5.0, -4.0)

    def at(link, alpha=0.5):
        return evaluate("sigmoid", logps, beta=0.5, f_divergence=link, f_alpha=alpha).item()

    assert at("alpha", 1e-9) == pytest.approx(at("reverse_kl"), abs=1e-6)
    assert at("alpha", 1.0) == pytest.approx(at("forward_kl"), abs=1e-12)
