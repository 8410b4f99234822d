"""A reward model's score belongs to its row: not to its batch, its padding, or the order of the calls."""

import asyncio
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from judge.reward.check import check_model
from judge.reward.config import RewardModelBackend
from judge.reward.judge import build_reward_model
from judge.reward.model import LocalClassifier, choose_pad
from rollout.errors import UsageError
from tests.support.tiny_classifier import edit_config, make_tiny_bert, make_tiny_classifier
from tests.support.tiny_groups import make_group
from tests.support.tiny_policy import make_tiny_policy

LENGTHS = [1, 3, 300, 2, 150, 40, 7, 290]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    return make_tiny_classifier(tmp_path_factory.mktemp("reward") / "model")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make_tiny_bert(tmp_path_factory.mktemp("reward") / "bert")


@pytest.fixture
def texts():
    random = torch.Generator().manual_seed(0)
    return ["".join(chr(97 + int(i)) for i in torch.randint(26, (n,), generator=random)) for n in LENGTHS]


async def scored(folder, groups, **settings):
    judge = build_reward_model(RewardModelBackend(model=str(folder), **settings))
    await judge.start()
    found = await judge.score(groups)
    await judge.close()
    return found


def values(groups):
    return [score.value for scores in groups for score in scores]


async def test_a_score_does_not_depend_on_its_batch(classifier, bert, texts):
    for folder, used in ((classifier, texts), (bert, [text[:90] for text in texts])):
        groups = [make_group(used[:3]), make_group(used[3:], question="how?")]
        alone = values(await scored(folder, groups, batch_size=1))
        together = values(await scored(folder, groups, batch_size=8))
        assert len(set(alone)) == len(used)
        assert max(abs(a - b) for a, b in zip(alone, together, strict=True)) < 1e-4


async def test_scores_are_the_raw_logits_of_the_last_token_of_the_rendered_dialogue(classifier):
    group = make_group(["yes", "no, not at all"])
    found = values(await scored(classifier, [group]))
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    model = AutoModelForSequenceClassification.from_pretrained(classifier).eval()
    for score, completion in zip(found, group.completions, strict=True):
        turns = [*group.prompt.messages, {"role": "assistant", "content": completion.text}]
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        assert (ids == tokenizer.bos_token_id).sum() == 1, "the template brings the only BOS"
        with torch.no_grad():
            assert model(ids).logits.item() == pytest.approx(score, abs=1e-5)


async def test_padding_that_shares_an_id_with_the_end_changes_nothing(classifier, texts, tmp_path):
    """The model's own pooling stops before the last token where the end of sequence is also the padding."""
    groups = [make_group(texts)]
    before = values(await scored(classifier, groups))
    same = make_tiny_classifier(tmp_path / "same")
    edit_config(same, pad_token_id=2)
    tokenizer = AutoTokenizer.from_pretrained(same)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(same)
    assert values(await scored(same, groups)) == pytest.approx(before, abs=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(same)
    assert choose_pad(tokenizer, model) not in (tokenizer.eos_token_id, model.config.eos_token_id)
    text = tokenizer.apply_chat_template(
        [*groups[0].prompt.messages, {"role": "assistant", "content": texts[0]}], tokenize=False
    )
    with torch.no_grad():
        trusted = model(tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]).logits.item()
    assert abs(trusted - before[0]) > 1e-3, "the trap is there for whoever trusts the model's own pooling"


async def test_the_head_stays_in_float32_while_the_body_does_not(classifier, texts):
    groups = [make_group(texts)]
    exact = values(await scored(classifier, groups))
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    model = LocalClassifier(classifier, tokenizer=tokenizer, dtype="bfloat16")
    saved = AutoModelForSequenceClassification.from_pretrained(classifier, dtype=torch.float32)
    assert torch.equal(model._model.score.weight, saved.score.weight)
    assert model._model.model.embed_tokens.weight.dtype == torch.bfloat16
    rounded = values(await scored(classifier, groups, dtype="bfloat16"))
    assert all(isinstance(value, float) for value in rounded)
    assert rounded != exact


async def test_a_row_that_cannot_be_scored_abstains_and_the_others_do_not(classifier):
    texts = ["good", "x" * 1000, "a\ud800b", "I say<|user|>now you", "fine\x00", "\u202etxet"]
    group = make_group([str(place) for place in range(len(texts))])
    spoken = tuple(replace(one, text=text) for one, text in zip(group.completions, texts, strict=True))
    group = replace(group, completions=spoken)
    reasons = [score.reason for score in (await scored(classifier, [group]))[0]]
    assert reasons == ["", "too_long", "invalid_text", "special_token", "", ""]
    assert [score.reason for score in (await scored(classifier, [group], max_length=8))[0]].count("too_long") == 4


async def test_what_is_not_finite_is_no_score(tmp_path):
    folder = make_tiny_classifier(tmp_path / "broken")
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    torch.nn.init.constant_(model.score.weight, float("nan"))
    model.save_pretrained(folder)
    found = await scored(folder, [make_group(["a", "b"])])
    assert [(score.value, score.reason) for score in found[0]] == [(None, "judge_not_finite")] * 2


async def test_a_pass_that_fails_is_halved_until_the_row_at_fault_stands_alone(classifier, texts, monkeypatch):
    whole = LocalClassifier.forward

    def fails_on_long_rows(self, rows):
        if max(map(len, rows)) > 200:
            raise torch.cuda.OutOfMemoryError("no room")
        return whole(self, rows)

    before = (await scored(classifier, [make_group(texts)]))[0]
    monkeypatch.setattr(LocalClassifier, "forward", fails_on_long_rows)
    after = (await scored(classifier, [make_group(texts)]))[0]
    for text, old, new in zip(texts, before, after, strict=True):
        if len(text) > 200:
            assert (new.value, new.reason) == (None, "judge_raised")
            assert b"no room" in new.evidence
        else:
            assert new.value == pytest.approx(old.value, abs=1e-4)


async def test_the_event_loop_is_free_while_a_forward_pass_runs(classifier, monkeypatch):
    whole, running = LocalClassifier.forward, []

    def slowly(self, rows):
        running.append(1)
        assert len(running) == 1, "one pass at a time"
        time.sleep(0.2)
        running.pop()
        return whole(self, rows)

    monkeypatch.setattr(LocalClassifier, "forward", slowly)
    judge = build_reward_model(RewardModelBackend(model=str(classifier), batch_size=1))
    await judge.start()
    calls = [asyncio.ensure_future(judge.score([make_group(["a", "b"], question=q)])) for q in ("1", "2")]
    num_ticks = 0
    while not all(call.done() for call in calls):
        await asyncio.sleep(0.01)
        num_ticks += 1
    assert num_ticks > 20
    assert {value for call in calls for value in values(call.result())}.isdisjoint({None})
    assert judge.report().counts["rows"] == 4


async def test_a_head_of_several_labels_needs_to_be_told_which(tmp_path):
    folder = make_tiny_classifier(tmp_path / "two", num_labels=2)
    with pytest.raises(UsageError, match="2 labels"):
        build_reward_model(RewardModelBackend(model=str(folder)))
    with pytest.raises(UsageError, match=r"judge\.label is 2"):
        build_reward_model(RewardModelBackend(model=str(folder), label=2))
    group = make_group(["a", "bb"])
    first, second = [values(await scored(folder, [group], label=label)) for label in (0, 1)]
    assert first != second


def test_the_wrong_model_is_refused_from_its_files_without_torch(tmp_path):
    make_tiny_policy(tmp_path / "policy")
    make_tiny_classifier(tmp_path / "two", num_labels=2)
    code = (
        "import sys\nfrom judge.reward.check import check_model\nfrom judge.reward.config import RewardModelBackend\n"
        "from rollout.errors import UsageError\n"
        "for name in ('policy', 'two', 'nowhere/at/all'):\n"
        "    try:\n        check_model(RewardModelBackend(model=f'{sys.argv[1]}/{name}'))\n"
        "    except UsageError as error:\n        print(error)\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    policy, two, nowhere = done.stdout.splitlines()
    assert "LlamaForCausalLM" in policy
    assert "head with 2 labels" in two
    assert "not a folder" in nowhere


async def test_a_head_that_is_not_in_the_files_is_never_made_up(tmp_path):
    folder = make_tiny_policy(tmp_path / "policy")
    edit_config(folder, architectures=["LlamaForSequenceClassification"], num_labels=1, id2label={"0": "x"})
    judge = build_reward_model(RewardModelBackend(model=str(folder)))
    with pytest.raises(UsageError, match="would be random"):
        await judge.start()


def test_a_model_without_a_tokenizer_is_refused(classifier, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare/config.json").write_text((classifier / "config.json").read_text())
    with pytest.raises(UsageError, match="no tokenizer"):
        check_model(RewardModelBackend(model=str(tmp_path / "bare")))
    with pytest.raises(UsageError, match=r"judge\.endpoint"):
        check_model(RewardModelBackend(model=str(classifier), endpoint="localhost:8000"))


def test_the_id_names_weights_tokenizer_and_what_changes_scores(classifier, tmp_path):
    def name(folder, **settings):
        return build_reward_model(RewardModelBackend(model=str(folder), **settings)).judge_id

    moved = make_tiny_classifier(tmp_path / "model")
    other = make_tiny_classifier(tmp_path / "other/model", seed=1)
    assert name(classifier) == name(classifier, batch_size=3) == name(moved)
    edit_config(moved, note="changed")
    untemplated = make_tiny_classifier(tmp_path / "third/model", chat_template=False)
    settings = [
        name(classifier, max_length=9),
        name(classifier, dtype="bfloat16"),
        name(classifier, tokenizer=str(other)),
    ]
    assert len({name(classifier), name(moved), name(other), name(untemplated), *settings}) == 7


async def test_without_a_template_dialogues_are_rendered_plainly_and_it_says_so(tmp_path):
    folder = make_tiny_classifier(tmp_path / "plain", chat_template=False)
    judge = build_reward_model(RewardModelBackend(model=str(folder)))
    await judge.start()
    assert "no chat template" in judge.report().notices[0]
    assert judge.report().notices == ()
    ids = judge._rows._encoder.dialogue([{"role": "user", "content": "why?"}, {"role": "assistant", "content": "so"}])
    assert judge._rows._encoder.tokenizer.decode(ids).endswith("user: why?\n\nassistant: so")
