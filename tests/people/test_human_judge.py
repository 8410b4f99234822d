"""People as the judge of a run, on a real queue; how they are served is another test's matter."""

import asyncio
import json

import pytest

from judge.config import parse_judge
from judge.human.database import Database
from judge.human.gold import write_gold
from judge.human.rounds import Rounds
from judge.shards import read_pairs, read_verdicts
from judge.types import VerdictShard
from judge.worker import JudgeWorker
from orchestrator.config import EvaluationConfig
from orchestrator.judging import audit_judge, judge_given
from rollout.errors import Stopped, UsageError
from rollout.shards import find_shards
from tests.support.annotators import annotators
from tests.support.tiny_groups import make_group, make_shard

HERE = "tests.people.test_human_judge"
FOLDERS = {"verdict_dir": "rounds/0000/verdicts", "pair_dir": "rounds/0000/pairs"}
QUICK = {"kind": "human", "min_dwell_s": 0, "labels_per_minute": 10_000, "double_share": 0.0}


def by_length(prompts, completions, **columns):
    return [float(len(answer[0]["content"])) for answer in completions]


def as_marked(prompts, completions, **columns):
    """The number that an answer ends with."""
    return [float(answer[0]["content"].split()[-1]) for answer in completions]


def make_worker(run_dir, **section):
    return JudgeWorker(settings=parse_judge(QUICK | section), run_dir=run_dir, run_id="run", command="rondo run x.yaml")


def queue(run_dir):
    return f"sqlite:///{run_dir}/labels/queue.sqlite"


def rounds(run_dir):
    return Rounds(Database(queue(run_dir)))


async def build_all(worker, shards):
    return await asyncio.gather(*(worker.build(shard, **FOLDERS, num_chunks=len(shards)) for shard in shards))


def verdicts(run_dir):
    shards = find_shards(run_dir, FOLDERS["verdict_dir"], VerdictShard)
    return [verdict for shard in shards for verdict in read_verdicts(run_dir, shard)]


@pytest.fixture
def two_chunks(tmp_path):
    return [
        make_shard(tmp_path, [make_group(["aa", "a"], question="one")], chunk_id=0),
        make_shard(tmp_path, [make_group(["b", "bbb"], question="two")], chunk_id=1),
    ]


def test_what_people_say_becomes_pairs_and_every_chunk_waits_for_the_whole_round(tmp_path, two_chunks):
    worker = make_worker(tmp_path)
    with annotators(queue(tmp_path), "ann", "bob"):
        built = asyncio.run(build_all(worker, two_chunks))
    pairs = [pair for shard in built for pair in read_pairs(tmp_path, shard)]
    assert [(pair.chosen, pair.rejected, pair.source, pair.p_chosen) for pair in pairs] == [
        ("aa", "a", "human", None),
        ("bbb", "b", "human", None),
    ]
    (label,) = json.loads(verdicts(tmp_path)[0].evidence)
    assert (label["label"], label["strength"]) == ("a", None)
    (view,) = rounds(tmp_path).all()
    assert (view.state, view.sealed_by, view.num_tasks, view.num_resolved) == ("sealed", "quorum", 2, 2)
    report = worker.report()
    assert report.counts == {"labelled": 2, "labels": 2}
    assert report.notices == ()


def test_a_round_that_is_sealed_is_read_again_and_asks_nobody(tmp_path, two_chunks):
    with annotators(queue(tmp_path)):
        first = asyncio.run(build_all(make_worker(tmp_path), two_chunks))
    bytes_of = [(tmp_path / shard.path).read_bytes() for shard in first]
    for shard in first:
        (tmp_path / shard.path).unlink()
        (tmp_path / shard.path).with_suffix(".json").unlink()
    for path in (tmp_path / FOLDERS["verdict_dir"]).iterdir():
        path.unlink()
    again = asyncio.run(build_all(make_worker(tmp_path), two_chunks))
    assert [(tmp_path / shard.path).read_bytes() for shard in again] == bytes_of
    assert len(rounds(tmp_path).all()) == 1


def test_at_the_deadline_the_fallback_takes_what_is_missing_and_keeps_what_people_said(tmp_path):
    shards = [make_shard(tmp_path, [make_group(["aa", "a", "aaaa"], question="one")])]
    worker = make_worker(
        tmp_path, deadline_s=0.8, fallback={"kind": "function", "target": f"{HERE}:by_length"}, comparisons="anchor"
    )
    shorter = {"a", "aa"}
    with annotators(
        queue(tmp_path),
        choose=lambda messages, left, right: "left" if len(left) < len(right) else "right",
        only=lambda lease: {lease.left, lease.right} == shorter,
    ):
        asyncio.run(build_all(worker, shards))
    first, second = verdicts(tmp_path)
    assert (first.source, first.outcome) == ("human", "b")  # people preferred the short one: kept
    assert (second.source, second.outcome) == ("function", "b")
    (view,) = rounds(tmp_path).all()
    assert (view.sealed_by, view.num_resolved) == ("deadline", 1)
    report = worker.report()
    assert "sealed by deadline: 1 of 2 pairs settled by 1 labels" in report.notices[0]
    assert any("takes over (first on 1 comparisons)" in notice for notice in report.notices)
    assert report.counts["failed_over"] == 1


def test_without_a_fallback_what_is_unsettled_is_dropped_and_counted(tmp_path, two_chunks):
    built = asyncio.run(build_all(make_worker(tmp_path, deadline_s=0.05), two_chunks))
    assert [dict(shard.num_abstained) for shard in built] == [{"deadline": 1}, {"deadline": 1}]
    assert [list(shard.rejected) for shard in built] == [["deadline"], ["deadline"]]
    assert all(shard.num_pairs == 0 for shard in built)


def test_with_release_the_run_stops_once_the_queue_is_filled_and_goes_on_once_it_is_sealed(tmp_path, two_chunks):
    section = {"while_waiting": "release", "page": {"serve": False}}
    with pytest.raises(Stopped, match=r"0 of 2 pairs settled.*resume with: rondo run x.yaml"):
        asyncio.run(build_all(make_worker(tmp_path, **section), two_chunks))
    assert rounds(tmp_path).all()[0].state == "collecting"
    with annotators(queue(tmp_path)) as seen:
        while rounds(tmp_path).all()[0].state != "sealed":
            pass
    assert len(seen) == 2
    built = asyncio.run(build_all(make_worker(tmp_path, **section), two_chunks))
    assert [shard.num_pairs for shard in built] == [1, 1]


def test_nobody_is_asked_about_two_answers_of_the_same_text(tmp_path):
    shards = [make_shard(tmp_path, [make_group(["x", "x"], question="one"), make_group(["y", "yy"], question="two")])]
    with annotators(queue(tmp_path)) as seen:
        (built,) = asyncio.run(build_all(make_worker(tmp_path), shards))
    assert len(seen) == 1
    assert (built.num_pairs, dict(built.num_abstained), list(built.rejected)) == (1, {"identical": 1}, ["identical"])


def test_people_come_last_in_a_cascade_and_a_chunk_without_a_question_for_them_counts(tmp_path):
    sure, unsure = make_group(["0", "9"], question="sure"), make_group(["1", "1.1"], question="unsure")
    shards = [make_shard(tmp_path, [group], chunk_id=place) for place, group in enumerate((sure, unsure))]
    first = {"kind": "function", "target": f"{HERE}:as_marked"}
    settings = parse_judge({"kind": "cascade", "judges": [first, QUICK], "unsure_below": 0.9})
    worker = JudgeWorker(settings=settings, run_dir=tmp_path, run_id="run")
    with annotators(queue(tmp_path)) as seen:
        asyncio.run(build_all(worker, shards))
    assert [sorted((lease.left, lease.right)) for lease in seen] == [["1", "1.1"]]
    assert [verdict.source for verdict in verdicts(tmp_path)] == ["function", "human"]


def test_the_pairs_that_a_ranking_judge_can_hardly_tell_apart_come_first(tmp_path):
    groups = [make_group([f"p {n}", f"q {n + gap}"], question=str(n)) for n, gap in enumerate((5, 0.1, 9, 1))]
    worker = make_worker(tmp_path, rank_by={"kind": "function", "target": f"{HERE}:as_marked"}, deadline_s=30)

    async def build():
        building = asyncio.create_task(build_all(worker, [make_shard(tmp_path, groups)]))
        while not (views := await asyncio.to_thread(lambda: rounds(tmp_path).all())) or views[0].state == "open":
            await asyncio.sleep(0.02)
        with annotators(queue(tmp_path)) as seen:
            await building
        return seen

    Database(queue(tmp_path)).upgrade()
    seen = asyncio.run(build())
    assert [lease.messages[0]["content"] for lease in seen] == ["1", "3", "0", "2"]


def test_gold_is_mixed_in_and_whoever_misses_it_is_quarantined(tmp_path):
    gold = [(make_group([f"good answer {n}", "bad"], question=f"gold {n}"), "b") for n in range(4)]
    write_gold(tmp_path, gold)
    groups = [make_group([f"{n}", f"{n} and more"], question=str(n)) for n in range(12)]
    section = {"gold": {"path": "read by the driver", "share": 0.5, "min_answers": 2, "min_accuracy": 0.9}}
    worker = make_worker(tmp_path, deadline_s=1.5, **section)
    with annotators(queue(tmp_path), "careless") as seen:
        (built,) = asyncio.run(build_all(worker, [make_shard(tmp_path, groups)]))
    assert sum(lease.messages[0]["content"].startswith("gold") for lease in seen) == 2  # and then they are sent home
    assert len(seen) < 12
    assert (built.num_pairs, dict(built.num_abstained)) == (0, {"deadline": 12}), "what they said does not count"
    (view,) = rounds(tmp_path).all()
    assert view.num_tasks == 12, "gold is not counted among the pairs"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"queue_url": "postgresql://me:secret@db/labels"}, "PGPASSWORD"),
        ({"queue_url": "mysql://db"}, "expected sqlite:///"),
        ({"while_waiting": "release"}, "page.serve"),
        ({"max_labels": 1, "overlap": 2}, "max_labels is 1"),
        ({"canaries": {"path": "x"}}, "judge.gold"),
        ({"rank_by": QUICK}, "2 times over"),
        ({"fallback": QUICK}, "2 times over"),
        ({"page": {"trusted_header": "X-User"}}, "trusted_proxies"),
        ({"page": {"keys": {"a": "1", "b": "1"}}}, "no character twice"),
    ],
)
def test_settings_that_cannot_work_are_refused(section, said):
    with pytest.raises(ValueError, match=said) as refused:
        parse_judge(QUICK | section)
    assert "secret" not in str(refused.value).replace("secret@db", "")


def test_guidelines_that_cannot_be_read_are_refused_before_anything_starts(tmp_path):
    from judge.check import check_judge

    with pytest.raises(UsageError, match="guidelines"):
        check_judge(parse_judge(QUICK | {"guidelines": str(tmp_path / "none.md")}))


@pytest.mark.parametrize("name", ["judge", "audit"])
def test_commands_that_wait_for_nobody_refuse_people(tmp_path, name):
    config = tmp_path / "people.yaml"
    config.write_text("judge: {kind: human}")
    ask = (lambda: audit_judge(config, "l.jsonl")) if name == "audit" else (lambda: judge_given(config, "g", tmp_path))
    with pytest.raises(UsageError, match=r"people.yaml asks people"):
        ask()


def test_people_are_no_gold_judge():
    with pytest.raises(ValueError, match="not as gold"):
        EvaluationConfig(gold={"kind": "human"})
