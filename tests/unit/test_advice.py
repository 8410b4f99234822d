"""What is said after a round, and what is not."""

import math

import pytest

from learner.advice import warnings_of
from learner.objective_config import ObjectiveConfig

GOOD = {
    "loss": 0.6, "reward_chosen": 0.1, "reward_rejected": -0.3, "kl": 1.0, "token_logp_chosen": -1.2,
    "ref_token_logp_chosen": -1.3,
}  # fmt: skip


def told(steps=None, num_rounds=3, **settings):
    chosen = ObjectiveConfig.model_validate(settings)
    return warnings_of(chosen, [GOOD] * 12 if steps is None else steps, num_rounds=num_rounds)


def falling(chosen, rejected, num=12):
    """Rewards that go linearly from 0 to these, at beta 0.1; their later half has a mean of 8.5/11 of them."""
    return [
        {**GOOD, "reward_chosen": chosen * i / (num - 1), "reward_rejected": rejected * i / (num - 1)}
        for i in range(num)
    ]


def test_a_sound_round_has_no_warnings():
    assert told() == ()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"beta": 0.01}, "learner.beta 0.01 lets sigmoid drift"),
        ({"num_rounds": 1}, "num_rounds is 1"),
        ({"steps": [{**GOOD, "loss": math.log(2) + 5e-4}] * 8}, "the loss stayed at ln 2 for all of 8 steps"),
        ({"steps": falling(-0.4, -0.9)}, "chosen answers fall together with rejected ones (-3.1 and -7.0 nats"),
        ({"steps": [{**GOOD, "ref_token_logp_chosen": -2.4}] * 2}, "-2.40 nats a token under the reference"),
        ({"steps": [{**GOOD, "token_logp_chosen": -4.4, "ref_token_logp_chosen": -4.5}]}, "style is not"),
    ],
)
def test_each_mistake_has_one_line(arguments, words):
    (line,) = told(**arguments)
    assert words in line
    assert "\n" not in line


@pytest.mark.parametrize(
    "arguments",
    [
        {"beta": 0.05},
        {"beta": 0.01, "loss": "ipo"},
        {"steps": [{**GOOD, "loss": math.log(2)}] * 7},
        {"steps": [{**GOOD, "loss": math.log(2)}] * 11 + [GOOD]},
        {"steps": [{**GOOD, "loss": math.log(2)}] * 12, "loss": "hinge"},
        {"steps": falling(0.4, -0.9)},
        {"steps": falling(-0.1, -0.9)},
        {"steps": falling(-0.4, -0.9, num=6)},
        {"steps": falling(-0.4, -0.9)[::-1]},
        {"steps": [{"loss": 1.0, "reward_chosen": -9.0, "reward_rejected": -9.0}] * 12, "loss": "simpo"},
    ],
)
def test_what_is_no_mistake_is_not_mentioned(arguments):
    assert told(**arguments) == ()
