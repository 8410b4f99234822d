"""A preference model reads both answers at once, in both orders."""

import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from judge.protocol import Question
from judge.reward.config import PreferenceModelBackend
from judge.reward.preference import build_preference_model, log_odds, probability, prompt_text
from rollout.errors import DataError, UsageError
from tests.support.tiny_classifier import make_tiny_bert, make_tiny_classifier
from tests.support.tiny_groups import make_group

TEMPLATE = "ask {prompt} | {a} | {b}"
ALL = ((0, 1), (0, 2), (2, 1))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_tiny_bert(tmp_path_factory.mktemp("preference") / "bert")


async def judged(folder, group, wanted=ALL, **settings):
    config = PreferenceModelBackend(**{"model": str(folder), "template": TEMPLATE, **settings})
    judge = build_preference_model(config)
    await judge.start()
    return (await judge.judge([Question(group=group, wanted=wanted)]))[0]


async def test_p_a_is_the_sigmoid_of_half_the_difference_of_both_orders(bert):
    group = make_group(["first", "another answer", "c"])
    found = await judged(bert, group)
    tokenizer = AutoTokenizer.from_pretrained(bert)
    model = AutoModelForSequenceClassification.from_pretrained(bert).eval()

    def logit(a, b):
        texts = [group.completions[index].text for index in (a, b)]
        ids = tokenizer(f"ask why? | {texts[0]} | {texts[1]}", return_tensors="pt")
        with torch.no_grad():
            return model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"]).logits.item()

    for verdict, (a, b) in zip(found, ALL, strict=True):
        ab, ba = logit(a, b), logit(b, a)
        assert (verdict.a, verdict.b) == (a, b)
        assert verdict.p_a == pytest.approx(1 / (1 + math.exp(-(ab - ba) / 2)), abs=1e-5)
        assert verdict.outcome == ("a" if ab > ba else "b")
        assert verdict.consistent == ((ab > 0) != (ba > 0))
        assert verdict.source == "preference_model"


async def test_the_order_of_asking_changes_nothing(bert):
    group = make_group(["first", "another answer"])
    forward, backward = await judged(bert, group, ((0, 1), (1, 0)))
    assert forward.p_a == pytest.approx(1 - backward.p_a, abs=1e-6)
    assert {forward.outcome, backward.outcome} == {"a", "b"}
    assert forward.consistent == backward.consistent


async def test_the_same_answer_twice_is_a_tie(bert):
    (verdict,) = await judged(bert, make_group(["same", "same"]), ((0, 1),))
    assert (verdict.outcome, verdict.p_a) == ("tie", 0.5)


def test_the_formula_by_hand():
    assert probability(math.log(3), -math.log(3)) == pytest.approx(0.75)  # both orders say 3 to 1
    assert probability(1.0, 1.0) == 0.5  # only ever the first place
    assert probability(900.0, -900.0) == 1.0
    assert log_odds([0.3], 0) == 0.3
    assert log_odds([1.0, -1.0], 1) == pytest.approx(-2.0)
    assert log_odds([0.0, 0.0, 0.0], 2) == pytest.approx(-math.log(2))
    found = log_odds([float("inf"), 0.0], 0)
    assert isinstance(found, DataError)
    assert found.reason == "judge_not_finite"


async def test_an_answer_that_closes_its_frame_or_does_not_fit_abstains(bert):
    group = make_group(["fine", "so | other", "x" * 200])
    found = await judged(bert, group, ((0, 1), (0, 2), (0, 0)), template="ask {prompt} END{a} STOP{b}")
    assert [verdict.reason for verdict in found] == ["", "too_long", ""]
    found = await judged(bert, make_group(["fine", "so STOP other"]), ((0, 1),), template="ask {prompt} END{a} STOP{b}")
    assert (found[0].outcome, found[0].p_a, found[0].reason) == ("abstain", None, "special_token")


async def test_braces_in_an_answer_are_only_braces(bert):
    (verdict,) = await judged(bert, make_group(["{b} {prompt}", "{a}"]), ((0, 1),))
    assert verdict.p_a is not None


async def test_decoders_and_mapped_labels_work_too(tmp_path):
    folder = make_tiny_classifier(tmp_path / "two", num_labels=2)
    with pytest.raises(UsageError, match="2 labels"):
        build_preference_model(PreferenceModelBackend(model=str(folder)))
    group = make_group(["first", "another answer"])
    (first,) = await judged(folder, group, ((0, 1),), label=0)
    (second,) = await judged(folder, group, ((0, 1),), label=1)
    assert first.p_a == pytest.approx(1 - second.p_a, abs=1e-5)


def test_a_template_names_each_part_once():
    with pytest.raises(ValueError, match=r"holds \{b\} 0 times"):
        PreferenceModelBackend(model="x", template="{prompt}{a}")


def test_a_lone_question_stands_as_it_is_and_a_conversation_has_roles():
    asked = {"role": "user", "content": "why?"}
    assert prompt_text([asked]) == "why?"
    assert prompt_text([{"role": "system", "content": "Be kind."}, asked]) == "system: Be kind.\n\nuser: why?"
