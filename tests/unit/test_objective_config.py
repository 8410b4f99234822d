"""Which objectives the configuration takes, and what it says of those that it does not."""

import pytest

from orchestrator.changes import flatten
from orchestrator.config import parse_config
from rollout.errors import UsageError

MINIMAL = {"policy": {"path": "x"}, "prompts": {"path": "p"}, "judge": {"target": "m:f"}}


def learner(**settings):
    return parse_config({**MINIMAL, "learner": settings}, origin="f.yaml").learner


def refusal(**settings):
    with pytest.raises(UsageError) as refused:
        learner(**settings)
    return str(refused.value)


def test_one_name_stays_one_name_and_a_list_is_a_mixture():
    assert learner().loss == "sigmoid"
    assert [(term.name, term.weight) for term in learner(loss="ipo").losses] == [("ipo", 1.0)]
    mixed = learner(loss=[{"name": "sigmoid", "weight": 0.8}, {"name": "bco_pair", "weight": 0.2}, "hinge"])
    assert [(term.name, term.weight) for term in mixed.losses] == [("sigmoid", 0.8), ("bco_pair", 0.2), ("hinge", 1.0)]
    assert learner(**mixed.model_dump(mode="json")) == mixed


def test_a_mixture_is_compared_and_journalled_as_a_value():
    config = parse_config({**MINIMAL, "learner": {"loss": ["sigmoid", "ipo"]}}, origin="x")
    mark, value = flatten(config)["learner.loss"]
    assert (mark, value) == ("per_round", [{"name": "sigmoid", "weight": 1.0}, {"name": "ipo", "weight": 1.0}])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "sigmod"}, "learner.loss: unknown loss 'sigmod', did you mean sigmoid?"),
        ({"loss": 3}, "unknown loss 3, expected one of sigmoid, robust"),
        ({"loss": []}, "got an empty list of losses"),
        ({"loss": [{"name": "ipo", "wait": 1}]}, "wait: extra inputs are not permitted, expected {name, weight}"),
        ({"loss": [{"name": "ipo", "weight": 0}]}, "weight: input should be greater than 0"),
        ({"simpo_gamma": 1.0}, "simpo_gamma: 1.0 has no effect: got loss sigmoid, expected one of simpo; leave"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing: 0.1 has no effect: got loss ipo"),
        ({"f_alpha": 0.3}, "got f_divergence: reverse_kl, expected f_divergence: alpha"),
        ({"ema_steps": 3}, "got reference: base, expected reference: ema"),
        ({"kl_gain": 0.5}, "kl_gain: 0.5 has no effect: got kl_target: None, expected a value"),
        ({"beta_dpo_keep": 0.5}, "got beta_dpo_alpha: 0.0"),
        ({"staleness_clip": 4}, "got staleness_weights: none"),
        ({"bco_shift": "none"}, "bco_shift: none has no effect: got loss sigmoid, expected bco_pair"),
        ({"loss": "exo_pair"}, "exo_pair needs a label_smoothing above 0"),
        ({"reference": "none"}, "got reference: none with loss sigmoid, expected a reference, or only of simpo, orpo"),
        ({"loss": ["simpo", "ipo"], "reference": "none"}, "got reference: none with loss ipo"),
        ({"loss": "simpo", "kl_target": 3.0}, "kl_target is measured against a reference, got loss simpo without one"),
        ({"loss": "aot", "wpo": True}, "loss aot sorts the batch"),
        ({"loss": "kto", "beta_dpo_alpha": 0.6}, "follows margins of decided pairs, got loss kto"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(settings, words):
    text = refusal(**settings)
    assert words in text
    assert "\n" not in text


def test_settings_that_are_used_are_taken():
    learner(loss="exo_pair", label_smoothing=1e-3)
    learner(loss="simpo", reference="none", simpo_gamma=1.2, beta=2.5)
    learner(f_divergence="alpha", f_alpha=0.3, reference="ema", ema_alpha=1.0, ema_steps=8)
    learner(beta_dpo_alpha=0.6, beta_dpo_keep=0.8, kl_target=5.0, kl_gain=0.2)
    assert not learner(loss="simpo").needs_reference
    assert learner(loss=["simpo", "sigmoid"]).needs_reference
    assert [learner(loss=name).whole_batch for name in ("aot", "ipo")] == [True, False]
