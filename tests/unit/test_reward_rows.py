"""Preference data in every shape that people keep it in; what has no winner is counted, and what is no data refused."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from judge.reward.config import RewardModelBackend
from judge.reward.encoding import RowEncoder
from learner.dialogues import DialogueEncoder, encode_comparisons
from learner.reward_rows import Comparison, load_comparisons
from rollout.errors import DataError, IntegrityError, UsageError
from tests.support.tiny_classifier import make_tiny_classifier
from tests.support.tiny_pairs import make_pair, random_pairs, write_pair_shard
from tests.support.tiny_policy import make_tiny_tokenizer

ASK = {"role": "user", "content": "why?"}
GOOD = {"role": "assistant", "content": "because"}
BAD = {"role": "assistant", "content": "no idea"}


def write_jsonl(path, rows):
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return str(path)


def only(path):
    found, dropped = load_comparisons([str(path)])
    assert dropped == {}
    (comparison,) = found
    return comparison


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "why?", "chosen": "because", "rejected": "no idea"},
        {"prompt": "why?", "chosen": [GOOD], "rejected": [BAD]},
        {"chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {"prompt": "why?", "chosen": [ASK, GOOD], "rejected": [ASK, BAD]},
        {"chosen": "\n\nHuman: why?\n\nAssistant: because", "rejected": "\n\nHuman: why?\n\nAssistant: no idea"},
    ],
    ids=["explicit", "texts", "mixed", "implicit", "repeated", "dialogue"],
)
def test_every_form_is_the_same_comparison(row, tmp_path):
    expected = only(write_jsonl(tmp_path / "a.jsonl", [{"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD]}]))
    assert expected.chosen == (ASK, GOOD)
    assert expected.rejected == (ASK, BAD)
    assert only(write_jsonl(tmp_path / "b.jsonl.gz", [row])) == expected
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "c.parquet")
    assert only(tmp_path / "c.parquet") == expected


def test_dialogues_of_several_turns_share_what_both_begin_with(tmp_path):
    begin = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: say: \n\n1. this"
    rows = [{"chosen": f"{begin}\n\nAssistant: a", "rejected": f"{begin}\n\nAssistant: "}]
    found = only(write_jsonl(tmp_path / "a.jsonl", rows))
    assert [turn["role"] for turn in found.chosen] == ["user", "assistant", "user", "assistant"]
    assert found.chosen[2]["content"] == "say: \n\n1. this"
    assert found.rejected[-1]["content"] == ""
    longer = [
        {"chosen": f"{begin}\n\nAssistant: b", "rejected": f"{begin}\n\nAssistant: c\n\nHuman: d\n\nAssistant: e"}
    ]
    assert only(write_jsonl(tmp_path / "b.jsonl", longer)).prompt_key == found.prompt_key


def test_what_has_no_winner_is_counted_by_reason(tmp_path):
    begin = "\n\nHuman: hi\n\nAssistant:"
    rows = [
        {"prompt": [ASK], "chosen": [GOOD], "rejected": [BAD], "outcome": "tie"},
        {"prompt": [ASK], "chosen": None, "rejected": [BAD]},
        {"prompt": [ASK], "chosen": [BAD], "rejected": [BAD]},
        {"prompt": [], "chosen": [GOOD, ASK], "rejected": [BAD]},
        {"chosen": f"{begin} a", "rejected": f"{begin}\n\nHuman: a\n\nAssistant: b"},
        {"chosen": f"{begin} a", "rejected": f"{begin} b"},
    ]
    found, dropped = load_comparisons([write_jsonl(tmp_path / "a.jsonl", rows)])
    assert len(found) == 1
    assert dropped == {"tie": 1, "unpaired": 1, "identical": 1, "not_a_dialogue": 2}


@pytest.mark.parametrize(
    "row", [{"text": "hello"}, {"chosen": "a", "rejected": "b"}, {"prompt": [ASK], "chosen": [1], "rejected": [BAD]}]
)
def test_what_is_no_preference_data_is_refused_by_its_place(row, tmp_path):
    with pytest.raises(UsageError, match=r"a\.jsonl:1 .*expected chosen and rejected"):
        load_comparisons([write_jsonl(tmp_path / "a.jsonl", [row])])


def test_a_damaged_archive_is_refused(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    write_jsonl(path, [{"chosen": "x" * 9999}])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UsageError, match=r"not a readable \.gz"):
        load_comparisons([str(path)])


def test_a_run_its_pairs_folder_and_its_files_give_the_same_pairs(tmp_path):
    for round_id in (0, 1):
        tie = make_pair("tie", [1], [2], [3], round_id=round_id, outcome="tie")
        lone = replace(make_pair("lone", [1], [2], [3], round_id=round_id), rejected=None, rejected_ids=None)
        write_pair_shard(tmp_path, [*random_pairs(4, round_id=round_id), tie, lone], round_id=round_id)
    (tmp_path / "rounds/0001/pairs/00001.arrow").write_bytes(b"left by a crash, without a manifest")
    whole, dropped = load_comparisons([str(tmp_path)])
    assert len(whole) == 8
    assert dropped == {"tie": 2, "unpaired": 2}
    folders = [str(tmp_path / f"rounds/{name}/pairs") for name in ("0000", "0001")]
    assert load_comparisons(folders) == (whole, dropped)
    assert load_comparisons([f"{folder}/00000.arrow" for folder in folders]) == (whole, dropped)


def test_an_altered_shard_is_named_never_read_around(tmp_path):
    shard = write_pair_shard(tmp_path, random_pairs(3))
    (tmp_path / shard.path).write_bytes((tmp_path / shard.path).read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"00000\.arrow"):
        load_comparisons([str(tmp_path)])
    (tmp_path / "empty/rounds").mkdir(parents=True)
    with pytest.raises(UsageError, match="no pair shards"):
        load_comparisons([str(tmp_path / "empty")])


@pytest.mark.parametrize("chat_template", [True, False])
def test_the_trainer_and_the_judge_read_the_same_tokens(chat_template, tmp_path):
    folder = make_tiny_classifier(tmp_path / "model", chat_template=chat_template)
    judge = RowEncoder(RewardModelBackend(model=str(folder), max_length=60))
    trainer = DialogueEncoder(AutoTokenizer.from_pretrained(folder), max_length=60)
    texts = ["because", "", "\u202etxet \x00", "two\n\nlines", "x" * 100, "a\ud800", "say <|eot|> now"]
    reasons = []
    for text in texts:
        messages = [ASK, {"role": "assistant", "content": text}]
        ours, theirs = (attempt(encode, messages) for encode in (judge.dialogue, trainer.encode))
        assert np.array_equal(ours, theirs)
        reasons.append(ours if isinstance(ours, str) else "")
    assert reasons == ["", "", "", "", "too_long", "invalid_text", "special_token"]


def attempt(encode, messages):
    try:
        return encode(messages)
    except DataError as error:
        return error.reason


def test_pairs_of_which_a_side_does_not_fit_are_counted_never_cut(tmp_path):
    encoder = DialogueEncoder(make_tiny_tokenizer(tmp_path), max_length=40)
    long = {"role": "assistant", "content": "z" * 100}
    rows = [
        Comparison(prompt_key="a", chosen=(ASK, GOOD), rejected=(ASK, BAD)),
        Comparison(prompt_key="b", chosen=(ASK, GOOD), rejected=(ASK, long)),
    ]
    pairs, dropped = encode_comparisons(rows, encoder)
    assert [pair.prompt_key for pair in pairs] == ["a"]
    assert dropped == {"too_long": 1}
