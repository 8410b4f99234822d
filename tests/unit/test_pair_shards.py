"""Pairs and answers come back from disk exactly as they were written, or not at all."""

from dataclasses import fields, replace

import datasets
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from judge.shards import PAIR_SCHEMA, read_pairs, read_verdicts, write_pairs, write_verdicts
from judge.types import PairShard, PreferencePair, Score, Verdict, VerdictShard
from rollout.errors import IntegrityError
from rollout.shards import find_shards
from tests.support.tiny_groups import SIGNATURE, make_group, make_shard

PAIRS, VERDICTS = "rounds/0000/pairs", "rounds/0000/verdicts"

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["", "\0", "a\0b", "👩‍👩‍👧 e\u0301", "\r\n"]
)
number = st.none() | st.floats(allow_nan=False, allow_infinity=False)
ids = arrays.arrays(np.int32, st.integers(0, 6), elements=st.integers(-(2**31), 2**31 - 1))
logps = arrays.arrays(np.float32, st.integers(0, 6))
message = st.fixed_dictionaries({"role": text, "content": text})
pairs_strategy = st.lists(
    st.builds(
        PreferencePair,
        pair_id=text,
        content_hash=text,
        round_id=st.integers(0, 2**31 - 1),
        prompt_id=text,
        prompt=st.lists(message, max_size=3).map(tuple),
        chosen=st.none() | text,
        rejected=st.none() | text,
        prompt_ids=ids,
        chosen_ids=st.none() | ids,
        rejected_ids=st.none() | ids,
        chosen_logps=st.none() | logps,
        rejected_logps=st.none() | logps,
        outcome=st.sampled_from(["chosen", "tie", "both_bad"]),
        score_chosen=number,
        score_rejected=number,
        margin=number,
        p_chosen=number,
        policy_version=st.integers(0, 9),
        judge_id=text,
        source=st.sampled_from(["function", "llm", "human"]),
        chosen_truncated=st.booleans(),
        rejected_truncated=st.booleans(),
    ),
    max_size=4,
)
answers_strategy = st.lists(
    st.builds(
        Score,
        prompt_id=text,
        index=st.integers(0, 99),
        value=number,
        judge_id=text,
        source=st.just("function"),
        reason=text,
        evidence=st.binary(max_size=9),
    )
    | st.builds(
        Verdict,
        prompt_id=text,
        a=st.integers(0, 99),
        b=st.integers(0, 99),
        outcome=st.sampled_from(["a", "b", "tie", "both_bad", "abstain"]),
        p_a=number,
        judge_id=text,
        source=st.just("human"),
        reason=text,
        evidence=st.binary(max_size=9),
    ),
    max_size=6,
)


def make_pair(**changes):
    group = make_group(["good", "bad"])
    good, bad = group.completions
    pair = PreferencePair(
        pair_id="id",
        content_hash="hash",
        round_id=0,
        prompt_id=group.prompt.prompt_id,
        prompt=({"role": "system", "content": "be brief"}, *group.prompt.messages),
        chosen=good.text,
        rejected=bad.text,
        prompt_ids=group.prompt_token_ids,
        chosen_ids=good.token_ids,
        rejected_ids=bad.token_ids,
        chosen_logps=good.logps,
        rejected_logps=bad.logps,
        outcome="chosen",
        score_chosen=1.0,
        score_rejected=0.0,
        margin=1.0,
        p_chosen=None,
        policy_version=1,
        judge_id="j",
        source="function",
        chosen_truncated=False,
        rejected_truncated=True,
    )
    return replace(pair, **changes)


def write(run_dir, pairs, rejected=None):
    return write_pairs(
        run_dir=run_dir,
        shard_dir=PAIRS,
        groups=make_shard(run_dir, []),
        pairs=pairs,
        rejected=rejected or {},
        num_abstained={"judge_raised": 2},
    )


def assert_same(left, right):
    for field in fields(PreferencePair):
        one, other = getattr(left, field.name), getattr(right, field.name)
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype, field.name
            assert one.tobytes() == other.tobytes(), field.name  # bit for bit, NaN too
        else:
            assert one == other, field.name


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(pairs=pairs_strategy)
def test_pairs_round_trip_losslessly(tmp_path, pairs):
    shard = write(tmp_path, pairs)
    back = read_pairs(tmp_path, shard)
    assert len(back) == len(pairs) == shard.num_pairs + shard.num_unpaired
    for one, other in zip(pairs, back, strict=True):
        assert_same(one, other)
    assert write(tmp_path, back).sha256 == shard.sha256


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(answers=answers_strategy)
def test_answers_round_trip_losslessly(tmp_path, answers):
    groups = make_shard(tmp_path, [])
    shard = write_verdicts(run_dir=tmp_path, shard_dir=VERDICTS, groups=[groups], answers=answers, judge_id="j")
    assert read_verdicts(tmp_path, shard) == answers
    assert shard.judged == (groups.sha256,)
    assert find_shards(tmp_path, VERDICTS, VerdictShard) == [shard]


def test_a_hundred_thousand_tokens_round_trip(tmp_path):
    ids = np.random.default_rng(0).integers(0, 2**31 - 1, 100_000, dtype=np.int32)
    pair = make_pair(chosen_ids=ids, chosen_logps=ids.astype(np.float32), chosen="x" * 100_000)
    (back,) = read_pairs(tmp_path, write(tmp_path, [pair]))
    assert_same(pair, back)
    back.chosen_ids[0] = 1  # arrays are the reader's own


def test_a_lone_surrogate_is_marked_and_loses_nothing_else(tmp_path):
    first, second = read_pairs(tmp_path, write(tmp_path, [make_pair(chosen="a\ud800b"), make_pair()]))
    assert (first.chosen, second.chosen) == ("a?b", "good")


def test_the_manifest_says_what_stands_in_the_shard(tmp_path):
    shard = write(tmp_path, [make_pair()], rejected={"tie": ("p1", "p2"), "duplicate": ("p3",)})
    assert (shard.num_pairs, shard.num_prompts) == (1, 4)
    assert (shard.signature, shard.policy_version, shard.num_abstained) == (SIGNATURE, 1, {"judge_raised": 2})
    assert find_shards(tmp_path, PAIRS, PairShard) == [shard]


def test_rows_that_no_paired_loss_can_train_are_counted_apart(tmp_path):
    rows = [make_pair(), make_pair(outcome="tie"), make_pair(rejected_ids=None), make_pair(outcome="both_bad")]
    shard = write_pairs(
        run_dir=tmp_path,
        shard_dir=PAIRS,
        groups=make_shard(tmp_path, []),
        pairs=rows,
        rejected={},
        num_abstained={},
        num_filtered={"below_margin": 3},
    )
    assert (shard.num_pairs, shard.num_unpaired, shard.num_prompts) == (1, 3, 1)
    assert find_shards(tmp_path, PAIRS, PairShard)[0].num_filtered == {"below_margin": 3}


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:50] + b"!" + data[51:], lambda data: b""]
)
def test_a_truncated_or_altered_shard_is_refused_by_name(tmp_path, damage):
    shard = write(tmp_path, [make_pair()])
    path = tmp_path / shard.path
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(IntegrityError, match=r"rounds/0000/pairs/00000\.arrow was truncated or altered"):
        read_pairs(tmp_path, shard)
    path.unlink()
    with pytest.raises(IntegrityError, match=r"pairs/00000\.arrow is missing"):
        read_pairs(tmp_path, shard)


def test_a_damaged_answer_shard_is_refused_by_name(tmp_path):
    groups = make_shard(tmp_path, [])
    shard = write_verdicts(run_dir=tmp_path, shard_dir=VERDICTS, groups=[groups], answers=[], judge_id="j")
    path = tmp_path / shard.path
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(IntegrityError, match=r"rounds/0000/verdicts/00000\.arrow"):
        read_verdicts(tmp_path, shard)


def test_datasets_opens_a_pair_shard_with_message_lists(tmp_path):
    shard = write(tmp_path, [make_pair(), make_pair(chosen="", rejected="\0👍"), make_pair(rejected=None)])
    rows = datasets.load_dataset(
        "arrow", data_files=str(tmp_path / shard.path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows.column_names == PAIR_SCHEMA.names
    assert rows[1]["prompt"] == [{"role": "system", "content": "be brief"}, {"role": "user", "content": "why?"}]
    assert rows[1]["chosen"] == [{"role": "assistant", "content": ""}]
    assert rows[1]["rejected"] == [{"role": "assistant", "content": "\0👍"}]
    assert rows[2]["rejected"] is None
    assert rows[0]["chosen_ids"] == make_pair().chosen_ids.tolist()


def test_pyarrow_opens_a_pair_shard(tmp_path):
    shard = write(tmp_path, [make_pair()])
    with pa.OSFile(str(tmp_path / shard.path)) as file:
        assert pa.ipc.open_file(file).read_all().schema.equals(PAIR_SCHEMA)
