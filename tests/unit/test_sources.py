"""Prompts come from files, datasets and functions; what cannot be used is counted or refused in one line."""

import json
from datetime import date

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import UsageError
from rollout.sources import load_prompts

ROWS = [
    {"prompt": "What is two and two?", "answer": "4"},
    {"prompt": "Name a colour.", "answer": "red"},
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def write_arrow(path, rows, make_writer):
    table = pa.Table.from_pylist(rows)
    with make_writer(str(path), table.schema) as writer:
        writer.write_table(table)


def load_rows(tmp_path, *rows, **options):
    return load_prompts(write_jsonl(tmp_path / "rows.jsonl", rows), **options)


def make_source(kind, folder):
    folder.mkdir()
    path = folder / f"prompts.{kind}"
    if kind == "jsonl":
        write_jsonl(path, ROWS)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    elif kind == "arrow":
        write_arrow(path, ROWS, pa.ipc.new_file)
    elif kind == "stream.arrow":
        write_arrow(path, ROWS, pa.ipc.new_stream)
    elif kind == "folder":
        write_jsonl(folder / "train.jsonl", ROWS)
        return str(folder)
    elif kind == "saved":
        datasets.Dataset.from_list(ROWS).save_to_disk(folder)
        return str(folder)
    else:
        datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(folder)
        return str(folder)
    return str(path)


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "arrow", "stream.arrow", "folder", "saved", "saved splits"])
def test_every_kind_of_source_gives_the_same_prompts(kind, tmp_path):
    loaded = load_prompts(make_source(kind, tmp_path / "source"))
    assert [prompt.messages for prompt in loaded.prompts] == [
        ({"role": "user", "content": row["prompt"]},) for row in ROWS
    ]
    assert [prompt.metadata for prompt in loaded.prompts] == [{"answer": "4"}, {"answer": "red"}]
    assert loaded.rejected == {}
    assert not any(str(tmp_path) in prompt.source for prompt in loaded.prompts)


def test_a_function_of_ones_own_gives_rows(tmp_path, monkeypatch):
    (tmp_path / "my_rows_of_prompts.py").write_text(
        "def rows():\n    yield 'plain text'\n    yield {'question': 'a row?', 'n': 1}\n"
        "def broken():\n    return 1 / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    loaded = load_prompts("my_rows_of_prompts:rows")
    assert [prompt.messages[0]["content"] for prompt in loaded.prompts] == ["plain text", "a row?"]
    assert loaded.prompts[1].metadata == {"n": 1}
    assert loaded.prompts[1].source == "my_rows_of_prompts:rows:1"
    with pytest.raises(UsageError, match="raised ZeroDivisionError"):
        load_prompts("my_rows_of_prompts:broken")
    with pytest.raises(UsageError, match="cannot import my_rows_of_prompts:missing"):
        load_prompts("my_rows_of_prompts:missing")


def test_a_conversation_keeps_its_turns(tmp_path):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
    for name in ("prompt", "messages"):
        assert load_rows(tmp_path, {name: turns}).prompts[0].messages == tuple(turns)


def test_the_column_is_found_or_named(tmp_path):
    row = {"instruction": "A", "question": "B", "text": "C"}
    assert load_rows(tmp_path, row).prompts[0].messages[0]["content"] == "B"
    named = load_rows(tmp_path, row, column="text").prompts[0]
    assert named.messages[0]["content"] == "C"
    assert named.metadata == {"instruction": "A", "question": "B"}
    with pytest.raises(UsageError, match=r"rows.jsonl:1 has columns \['instruction', .* expected 'other'; name"):
        load_rows(tmp_path, row, column="other")
    with pytest.raises(UsageError, match=r"expected 'prompt' or 'messages'"):
        load_rows(tmp_path, {"body": "A"})


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "prompt_empty"),
        (" \n", "prompt_empty"),
        (None, "prompt_empty"),
        ([], "prompt_empty"),
        ([{"role": "user", "content": ""}], "prompt_empty"),
        ([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "prompt_not_user_turn"),
        ([{"role": "system", "content": "a"}], "prompt_not_user_turn"),
        (7, "prompt_malformed"),
        (["a"], "prompt_malformed"),
        ([{"role": "user"}], "prompt_malformed"),
        ([{"role": "user", "content": ["a"]}], "prompt_malformed"),
        ([{"role": "user", "content": "a", "image": "b"}], "prompt_malformed"),
        ("a\ud800", "prompt_invalid_unicode"),
        ([{"role": "\udc00", "content": "a"}, {"role": "user", "content": "a"}], "prompt_invalid_unicode"),
        ("fine", "prompt_duplicate"),
    ],
)
def test_unusable_rows_are_counted_by_reason(tmp_path, value, reason):
    loaded = load_rows(tmp_path, {"prompt": "fine"}, {"prompt": value})
    assert loaded.rejected == {reason: 1}
    assert len(loaded.prompts) == 1


any_text = st.text(st.sampled_from("aé \n\0😀") | st.sampled_from("\ud800\udbff\udc00\udfff"), max_size=4)


@given(contents=st.lists(any_text, max_size=4), metadata=any_text)
@settings(max_examples=80, deadline=None)
def test_any_text_is_used_or_counted(contents, metadata, tmp_path_factory):
    rows = [{"prompt": "fine"}, *({"prompt": text, "note": metadata} for text in contents)]
    loaded = load_rows(tmp_path_factory.mktemp("rows"), *rows)
    assert len(loaded.prompts) + sum(loaded.rejected.values()) == len(rows)
    for prompt in loaded.prompts:
        json.dumps([prompt.messages, prompt.metadata], ensure_ascii=False).encode()


def test_metadata_that_is_no_unicode_makes_a_row_unusable(tmp_path):
    loaded = load_rows(tmp_path, {"prompt": "fine"}, {"prompt": "b", "answer": ["\ud800"]})
    assert loaded.rejected == {"prompt_invalid_unicode": 1}


def test_bytes_that_are_no_utf8_are_counted(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "fine"}\n\n{"prompt": "\xff"}\n')
    assert load_prompts(str(path)).rejected == {"prompt_invalid_unicode": 1}
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.int32([0, 4, 7])), pa.py_buffer(b"fine\xed\xa0\x80")]
    )
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "rows.parquet")
    loaded = load_prompts(str(tmp_path / "rows.parquet"))
    assert [prompt.messages[0]["content"] for prompt in loaded.prompts] == ["fine"]
    assert loaded.rejected == {"prompt_invalid_unicode": 1}


def test_the_same_prompt_with_other_metadata_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"prompt [0-9a-f]{24} stands in rows.jsonl:1 and rows.jsonl:3"):
        load_rows(tmp_path, {"prompt": "a", "n": 1}, {"prompt": "b"}, {"prompt": "a", "n": 2})


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"prompt": "b"', "line 2 is not JSON"),
        ('"text"', "line 2 holds a JSON str"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_a_line_that_is_no_row_is_named_by_number(tmp_path, line, problem):
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"prompt": "a"}}\n{line}\n')
    with pytest.raises(UsageError, match=problem) as raised:
        load_prompts(str(path))
    assert "\n" not in str(raised.value)


def test_sources_that_hold_nothing_are_refused(tmp_path):
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UsageError, match=r"empty.jsonl has no prompt that can be used: it is empty"):
        load_prompts(str(tmp_path / "empty.jsonl"))
    with pytest.raises(UsageError, match=r"prompt_empty 2"):
        load_rows(tmp_path, {"prompt": ""}, {"prompt": None})


@pytest.mark.parametrize("path", ["missing.jsonl", "./missing", "/no/where", "a/b/c", "s3://x/y.parquet"])
def test_a_source_that_does_not_exist_is_refused(path):
    with pytest.raises(UsageError, match="does not exist"):
        load_prompts(path)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    for name in ("rows.parquet", "rows.arrow"):
        (tmp_path / name).write_text("no such format")
        with pytest.raises(UsageError, match=f"{name} is not a readable"):
            load_prompts(str(tmp_path / name))
    (tmp_path / "rows.csv").touch()
    with pytest.raises(UsageError, match=r"rows.csv ends in '.csv'"):
        load_prompts(str(tmp_path / "rows.csv"))


def test_a_split_that_does_not_exist_is_refused(tmp_path):
    for kind in ("folder", "saved splits"):
        with pytest.raises(UsageError, match="cannot load split 'validation'"):
            load_prompts(make_source(kind, tmp_path / kind), split="validation")


def test_metadata_becomes_json(tmp_path):
    row = {"prompt": "a", "day": date(2020, 1, 2), "tests": [{"in": 1, "out": None}]}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "rows.parquet")
    prompt = load_prompts(str(tmp_path / "rows.parquet")).prompts[0]
    assert prompt.metadata == {"day": "2020-01-02", "tests": [{"in": 1, "out": None}]}
    pq.write_table(pa.Table.from_pylist([{"prompt": "a", "image": b"png"}]), tmp_path / "rows.parquet")
    with pytest.raises(UsageError, match=r"rows.parquet:0 column 'image' holds bytes"):
        load_prompts(str(tmp_path / "rows.parquet"))
