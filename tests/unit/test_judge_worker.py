"""A chunk in, a shard out: every prompt has its pair or one reason, whatever the judge does."""

import asyncio
import math
import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from judge.config import FunctionJudge
from judge.pairing_config import PairingConfig
from judge.shards import read_pairs, read_verdicts
from judge.types import PairShard, Verdict, VerdictShard
from judge.worker import JudgeWorker
from rollout.errors import IntegrityError, UsageError
from rollout.shards import find_shards, hash_file
from tests.support.tiny_groups import make_group, make_shard

HERE = "tests.unit.test_judge_worker"
FOLDERS = {"verdict_dir": "rounds/0000/verdicts", "pair_dir": "rounds/0000/pairs"}


def by_length(completions, **columns):
    return [float(len(completion[0]["content"])) for completion in completions]


def longer(completions_a, completions_b, **columns):
    lengths = [(len(a[0]["content"]), len(b[0]["content"])) for a, b in zip(completions_a, completions_b, strict=True)]
    return [0.5 if a == b else 0.9 if a > b else 0.1 for a, b in lengths]


def as_told(completions, value, **columns):
    """Does what the prompt's metadata say: return these values, or fail in that way."""
    match value[0]:
        case "raise":
            raise ValueError("as told")
        case {"of": kind, "with": values}:
            return {"str": str, "tuple": tuple, "dict": lambda v: dict(enumerate(v))}[kind](values)
        case list():
            return value[0]
        case other:
            return other


def never(**columns):
    raise AssertionError("this judge must not be called")


class ByLength:
    async def judge(self, group, wanted):
        texts = {completion.index: completion.text for completion in group.completions}
        return [
            Verdict(
                prompt_id=group.prompt.prompt_id,
                a=a,
                b=b,
                outcome="both_bad" if not texts[a] + texts[b] else "a" if len(texts[a]) > len(texts[b]) else "b",
                p_a=None,
                judge_id="by_length",
                source="llm",
                evidence=b"\xff\x00",
            )
            for a, b in wanted
        ]


def make_worker(run_dir, name="by_length", **options):
    return JudgeWorker(settings=FunctionJudge(target=f"{HERE}:{name}", **options), run_dir=run_dir, run_id="run")


def build(worker, shard):
    return asyncio.run(worker.build(shard, **FOLDERS))


def accounted_for(run_dir, shard):
    """How often each prompt of a pair shard stands in it."""
    pairs = [pair.prompt_id for pair in read_pairs(run_dir, shard)]
    return Counter([*set(pairs), *(prompt_id for ids in shard.rejected.values() for prompt_id in ids)])


def test_a_chunk_becomes_answers_and_pairs(tmp_path):
    groups = [make_group(["aa", "a", "aaa"], question="one"), make_group(["b", "c"], question="two")]
    shard = make_shard(tmp_path, groups, rejected={"prompt_too_long": ("p9",)})
    built = build(make_worker(tmp_path), shard)
    (pair,) = read_pairs(tmp_path, built)
    assert (pair.chosen, pair.rejected, pair.margin, pair.score_chosen) == ("aaa", "a", 2.0, 3.0)
    assert built.rejected == {"prompt_too_long": ("p9",), "tie": (groups[1].prompt.prompt_id,)}
    assert (built.num_prompts, built.num_pairs, built.num_abstained) == (3, 1, {})
    assert (built.path, built.signature) == ("rounds/0000/pairs/00000.arrow", shard.signature)
    (answers,) = find_shards(tmp_path, FOLDERS["verdict_dir"], VerdictShard)
    assert [answer.value for answer in read_verdicts(tmp_path, answers)] == [2.0, 1.0, 3.0, 1.0, 1.0]
    assert find_shards(tmp_path, FOLDERS["pair_dir"], PairShard) == [built]


@pytest.mark.parametrize("options", [{}, {"comparisons": "anchor"}, {"comparisons": "random_k", "num_comparisons": 3}])
def test_a_pairwise_judge_pairs_by_mean_win_probability(tmp_path, options):
    shard = make_shard(tmp_path, [make_group(["aa", "a", "aaa"])])
    built = build(make_worker(tmp_path, "longer", style="pairwise", **options), shard)
    (pair,) = read_pairs(tmp_path, built)
    assert (pair.chosen, pair.rejected) == ("aaa", "a")
    assert pair.margin == pytest.approx(0.8)
    assert pair.p_chosen == (None if options.get("comparisons") == "anchor" else 0.9)


def test_a_class_judge_keeps_its_own_evidence(tmp_path):
    shard = make_shard(tmp_path, [make_group(["aa", "a"]), make_group(["", ""], question="x")])
    built = build(make_worker(tmp_path, "ByLength", style="pairwise"), shard)
    (pair,) = read_pairs(tmp_path, built)
    assert (pair.chosen, pair.judge_id, pair.source, pair.p_chosen) == ("aa", "by_length", "llm", None)
    (answers,) = find_shards(tmp_path, FOLDERS["verdict_dir"], VerdictShard)
    assert [(v.outcome, v.evidence) for v in read_verdicts(tmp_path, answers)] == [
        ("a", b"\xff\x00"),
        ("both_bad", b"\xff\x00"),
    ]


whims = (
    st.just("raise")
    | st.none()
    | st.text(max_size=3)
    | st.lists(st.none() | st.floats() | st.integers() | st.text(max_size=1) | st.booleans(), max_size=4)
    | st.fixed_dictionaries(
        {
            "of": st.sampled_from(["str", "tuple", "dict"]),
            "with": st.lists(st.floats(allow_nan=False) | st.none(), min_size=2, max_size=3),
        }
    )
)
chunks = st.lists(st.tuples(st.lists(st.sampled_from(["", "a", "b", "cc"]), min_size=1, max_size=4), whims), max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(chunk=chunks, min_margin=st.sampled_from([0.0, 0.5, 1e300]))
def test_every_prompt_is_accounted_for_exactly_once_whatever_the_judge_does(tmp_path_factory, chunk, min_margin):
    run_dir = tmp_path_factory.mktemp("run")
    groups = [make_group(texts, question=f"q{place}", value=whim) for place, (texts, whim) in enumerate(chunk)]
    shard = make_shard(run_dir, groups, rejected={"prompt_too_long": ("p9",), "tie": ("p10",)})
    worker = make_worker(run_dir, "as_told", pairing=PairingConfig(min_margin=min_margin))
    built = build(worker, shard)
    everyone = [group.prompt.prompt_id for group in groups] + ["p9", "p10"]
    assert accounted_for(run_dir, built) == Counter(everyone)
    assert built.num_prompts == len(everyone)
    (answers,) = find_shards(run_dir, FOLDERS["verdict_dir"], VerdictShard)
    answers = read_verdicts(run_dir, answers)
    assert len(answers) == sum(len(group.completions) for group in groups)
    assert sum(built.num_abstained.values()) == sum(answer.value is None for answer in answers)
    assert all(math.isfinite(answer.value) for answer in answers if answer.value is not None)
    judged = {(answer.prompt_id, answer.value) for answer in answers if answer.value is not None}
    for pair in read_pairs(run_dir, built):  # only what the judge really said is in a label
        assert {(pair.prompt_id, pair.score_chosen), (pair.prompt_id, pair.score_rejected)} <= judged
        assert pair.score_chosen > pair.score_rejected


@pytest.mark.parametrize(
    ("whim", "reason"),
    [
        ("raise", "judge_raised"),
        ([math.nan, 1.0], "judge_not_finite"),
        ([1.0], "judge_wrong_count"),
        (["1", 2.0], "judge_wrong_type"),
        (None, "judge_wrong_type"),
        ([None, None], "abstained"),
    ],
)
def test_misbehaviour_is_counted_under_its_name(tmp_path, caplog, whim, reason):
    group = make_group(["a", "bb"], value=whim)
    built = build(make_worker(tmp_path, "as_told"), make_shard(tmp_path, [group]))
    assert (built.num_pairs, built.rejected) == (0, {reason: (group.prompt.prompt_id,)})
    assert set(built.num_abstained) == {reason}
    assert reason in caplog.text


def test_what_is_finished_is_returned_and_nobody_is_asked_again(tmp_path):
    shard = make_shard(tmp_path, [make_group(["aa", "a"])])
    built = build(make_worker(tmp_path), shard)
    for folder in FOLDERS.values():  # the manifest alone decides: committed bytes are not written again
        os.remove(tmp_path / folder / "00000.arrow")
    assert build(make_worker(tmp_path, "never"), shard) == built
    assert not (tmp_path / built.path).exists()


def test_answers_on_disk_are_paired_without_asking_again(tmp_path):
    shard = make_shard(tmp_path, [make_group(["aa", "a"]), make_group(["x", "y"], question="x")])
    built = build(make_worker(tmp_path), shard)
    os.remove((tmp_path / built.path).with_suffix(".json"))  # as a crash leaves it, between answers and pairs
    os.remove(tmp_path / built.path)
    assert build(make_worker(tmp_path, "never"), shard) == built
    assert hash_file(tmp_path / built.path) == built.sha256


def test_answers_without_a_manifest_are_unfinished_and_judged_again(tmp_path):
    shard = make_shard(tmp_path, [make_group(["aa", "a"])])
    built = build(make_worker(tmp_path), shard)
    for folder in FOLDERS.values():
        os.remove(tmp_path / folder / "00000.json")
        (tmp_path / folder / "00000.arrow").write_bytes(b"half a file")
    assert build(make_worker(tmp_path), shard) == built


def test_answers_on_other_completions_are_refused(tmp_path):
    built = build(make_worker(tmp_path), make_shard(tmp_path, [make_group(["aa", "a"])]))
    os.remove((tmp_path / built.path).with_suffix(".json"))
    other = make_shard(tmp_path, [make_group(["aa", "b"])])
    with pytest.raises(IntegrityError, match=r"verdicts/00000\.json holds answers on other completions"):
        build(make_worker(tmp_path), other)


def test_an_altered_group_shard_is_refused_by_name(tmp_path):
    shard = make_shard(tmp_path, [make_group(["aa", "a"])])
    (tmp_path / shard.path).write_bytes(b"ARROW1")
    with pytest.raises(IntegrityError, match=r"groups/00000\.arrow"):
        build(make_worker(tmp_path), shard)


def test_a_judge_that_cannot_work_is_refused_when_the_worker_is_made(tmp_path):
    with pytest.raises(UsageError, match="nothing"):
        make_worker(tmp_path, "nothing")


def test_changed_settings_hold_from_the_next_chunk(tmp_path):
    worker = make_worker(tmp_path)
    before = worker.judge_id
    asyncio.run(worker.configure(FunctionJudge(target=f"{HERE}:by_length", pairing=PairingConfig(min_margin=5.0))))
    built = build(worker, make_shard(tmp_path, [make_group(["aa", "a"])]))
    assert list(built.rejected) == ["below_margin"]
    assert worker.judge_id == before


@pytest.mark.parametrize(
    ("name", "style"), [("by_length", "pointwise"), ("longer", "pairwise"), ("ByLength", "pairwise")]
)
def test_a_candidate_is_compared_with_the_baseline_by_prompt_and_index(tmp_path, name, style):
    ours = [make_group(["aaa", "a"], question="one"), make_group(["a"], question="two")]
    theirs = [make_group(["aa", "aa", "a"], question="one"), make_group(["a", "a"], question="three")]
    candidate = make_shard(tmp_path, ours, folder="candidate")
    baseline = make_shard(tmp_path, theirs, folder="baseline")
    out_dir = "rounds/0000/evaluation/base"
    verdicts = asyncio.run(make_worker(tmp_path, name, style=style).compare(candidate, baseline, out_dir=out_dir))
    one, two, three = (group.prompt.prompt_id for group in (*ours, theirs[1]))
    assert [(v.prompt_id, v.a, v.b, v.outcome, v.reason) for v in verdicts] == [
        (one, 0, 0, "a", ""),
        (one, 1, 1, "b", ""),
        (one, 2, 2, "abstain", "no_counterpart"),
        (two, 0, 0, "abstain", "no_counterpart"),
        (three, 0, 0, "abstain", "no_counterpart"),
        (three, 1, 1, "abstain", "no_counterpart"),
    ]
    again = make_worker(tmp_path, "never", style=style)
    assert asyncio.run(again.compare(candidate, baseline, out_dir=out_dir)) == verdicts
    with pytest.raises(IntegrityError, match="other completions"):
        asyncio.run(again.compare(baseline, candidate, out_dir=out_dir))


def test_a_policy_against_itself_ties_and_a_failing_judge_abstains(tmp_path):
    shard = make_shard(tmp_path, [make_group(["aaa", "a"], value=[1.0, 2.0, 1.0, math.nan])])
    verdicts = asyncio.run(make_worker(tmp_path).compare(shard, shard, out_dir="same"))
    assert [v.outcome for v in verdicts] == ["tie", "tie"]
    verdicts = asyncio.run(make_worker(tmp_path, "as_told").compare(shard, shard, out_dir="told"))
    assert [(v.outcome, v.reason) for v in verdicts] == [("tie", ""), ("abstain", "judge_not_finite")]
