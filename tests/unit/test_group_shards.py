"""Groups come back from disk exactly as they were written, or not at all."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from rollout.errors import IntegrityError
from rollout.prompts import prompt_id
from rollout.shards import arrays_of, find_shards, list_column, read_groups, write_groups
from rollout.types import (
    Completion,
    CompletionGroup,
    GroupShard,
    PolicyRef,
    Prompt,
    PromptChunk,
    Sampling,
    TokenSignature,
    WeightSpan,
)

POLICY = PolicyRef(version=3, path="policies/v0003", sha256="ab" * 32)
SAMPLING = Sampling(num_completions=4, temperature=0.7, top_p=0.9, max_new_tokens=64)
SIGNATURE = TokenSignature(tokenizer="t", chat_template="c", template_kwargs="k", stop_ids=(2, 7))

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "\0", "a\0b", "👩‍👩‍👧 e\u0301"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=6,
)
token_ids = arrays.arrays(np.int32, st.integers(0, 6), elements=st.integers(0, 2**31 - 1))
logps = arrays.arrays(np.float32, st.integers(0, 6))
spans = st.builds(WeightSpan, version=st.integers(0, 9), start=st.integers(0, 9), end=st.integers(0, 9))
completions = st.builds(
    Completion,
    index=st.integers(0, 9),
    token_ids=token_ids,
    logps=logps,
    text=text,
    finish_reason=st.sampled_from(["stop", "length"]),
    seed=st.none() | st.integers(0, 2**63 - 1),
    weight_versions=st.lists(spans, max_size=2).map(tuple),
)
messages = st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": text}), max_size=2).map(tuple)
prompts = st.builds(
    Prompt, prompt_id=text, messages=messages, source=text, metadata=st.dictionaries(text, json_values, max_size=3)
)
groups_strategy = st.lists(
    st.builds(
        CompletionGroup,
        prompt=prompts,
        prompt_token_ids=token_ids,
        completions=st.lists(completions, max_size=3).map(tuple),
    ),
    max_size=4,
)


def chunk(chunk_id=0, prompts=()):
    return PromptChunk(chunk_id=chunk_id, round_id=1, shard_dir="rounds/0001/groups", prompts=tuple(prompts))


def write(run_dir, groups, chunk_id=0, rejected=None):
    return write_groups(
        run_dir=run_dir,
        chunk=chunk(chunk_id),
        groups=groups,
        policy=POLICY,
        sampling=SAMPLING,
        signature=SIGNATURE,
        rejected=rejected or {},
    )


def make_group(content="hello", num_tokens=3):
    turn = {"role": "user", "content": content}
    completion = Completion(
        index=0,
        token_ids=np.arange(num_tokens, dtype=np.int32),
        logps=np.linspace(-9, 0, num_tokens, dtype=np.float32),
        text="hi",
        finish_reason="stop",
        seed=None,
        weight_versions=(WeightSpan(version=3, start=0, end=num_tokens),),
    )
    prompt = Prompt(prompt_id=prompt_id([turn]), messages=(turn,), source="a.jsonl:1", metadata={})
    return CompletionGroup(prompt=prompt, prompt_token_ids=np.int32([1, 2]), completions=(completion,))


def assert_same(found, expected):
    assert [group.prompt for group in found] == [group.prompt for group in expected]
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(one.prompt_token_ids, other.prompt_token_ids)
        for left, right in zip(one.completions, other.completions, strict=True):
            assert_same_bits(left.token_ids, right.token_ids)
            assert_same_bits(left.logps, right.logps)
            for name in ("index", "text", "finish_reason", "seed", "weight_versions"):
                assert getattr(left, name) == getattr(right, name)


def assert_same_bits(found, expected):
    assert found.dtype == expected.dtype
    assert found.tobytes() == expected.tobytes()
    assert found.flags.writeable


@given(groups=groups_strategy)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_groups_round_trip(groups, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    shard = write(run_dir, groups)
    assert_same(read_groups(run_dir, shard), groups)
    assert shard.num_groups == len(groups)


def test_a_very_long_completion_round_trips(tmp_path):
    group = make_group(num_tokens=100_000)
    shard = write(tmp_path, [group])
    assert_same(read_groups(tmp_path, shard), [group])
    assert shard.num_tokens == 100_000


def test_the_manifest_says_how_the_groups_were_made(tmp_path):
    shard = write(tmp_path, [make_group()], rejected={"prompt_too_long": ("x", "y")})
    assert find_shards(tmp_path, "rounds/0001/groups", GroupShard) == [shard]
    assert (shard.policy_version, shard.policy_sha256) == (3, POLICY.sha256)
    assert (shard.sampling, shard.signature) == (SAMPLING, SIGNATURE)
    assert shard.rejected == {"prompt_too_long": ("x", "y")}


def test_equal_groups_are_equal_bytes(tmp_path):
    assert write(tmp_path / "a", [make_group()]) == write(tmp_path / "b", [make_group()])


@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_a_truncated_or_altered_shard_is_refused_by_name(data, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    shard = write(run_dir, [make_group(), make_group("other")])
    path = run_dir / shard.path
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    flipped = good[:place] + bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1 :]
    path.write_bytes(data.draw(st.sampled_from([good[:place], flipped, good + b"\0"])))
    with pytest.raises(IntegrityError, match=r"00000\.arrow"):
        read_groups(run_dir, shard)


def test_a_missing_shard_is_refused_by_name(tmp_path):
    shard = write(tmp_path, [make_group()])
    (tmp_path / shard.path).unlink()
    with pytest.raises(IntegrityError, match=r"00000\.arrow is missing"):
        read_groups(tmp_path, shard)


@pytest.mark.parametrize("content", ["", "{", '{"path": 1}'])
def test_a_broken_manifest_is_refused_by_name(tmp_path, content):
    write(tmp_path, [make_group()], chunk_id=4)
    (tmp_path / "rounds/0001/groups/00004.json").write_text(content)
    with pytest.raises(IntegrityError, match=r"00004\.json"):
        find_shards(tmp_path, "rounds/0001/groups", GroupShard)


def test_finished_shards_come_in_order_and_unfinished_ones_not_at_all(tmp_path):
    shards = [write(tmp_path, [make_group()], chunk_id=number) for number in (11, 2, 5)]
    folder = tmp_path / "rounds/0001/groups"
    (folder / "00005.json").unlink()
    (folder / ".tmp-1-00007.json").write_text("half")
    assert find_shards(tmp_path, "rounds/0001/groups", GroupShard) == [shards[1], shards[0]]
    assert find_shards(tmp_path, "rounds/0002/groups", GroupShard) == []


def test_text_that_is_no_unicode_costs_no_group(tmp_path):
    group = make_group()
    broken = Completion(**{**vars(group.completions[0]), "text": "a\ud800b"})
    shard = write(
        tmp_path, [CompletionGroup(prompt=group.prompt, prompt_token_ids=np.int32([1]), completions=(broken,))]
    )
    assert read_groups(tmp_path, shard)[0].completions[0].text == "a?b"


def test_metadata_may_hold_any_text(tmp_path):
    group = make_group()
    prompt = Prompt(**{**vars(group.prompt), "metadata": {"answer": "a\ud800", "\udfff": {}}})
    shard = write(tmp_path, [CompletionGroup(prompt=prompt, prompt_token_ids=np.int32([1]), completions=())])
    assert read_groups(tmp_path, shard)[0].prompt == prompt


def test_others_read_the_file_as_it_is(tmp_path):
    shard = write(tmp_path, [make_group()])
    row = pa.ipc.open_file(str(tmp_path / shard.path)).read_all().to_pylist()[0]
    assert row["prompt"] == [{"role": "user", "content": "hello"}]
    assert row["token_ids"] == [[0, 1, 2]]
    assert json.loads(row["metadata"]) == {}


def test_a_list_column_holds_missing_rows():
    column = pa.chunked_array(
        [list_column([np.int32([1, 2]), np.int32([])], np.int32), pa.array([None, [3]], pa.list_(pa.int32()))]
    )
    assert [array.tolist() for array in arrays_of(column)] == [[1, 2], [], [], [3]]
    assert arrays_of(list_column([], np.float32)) == []
