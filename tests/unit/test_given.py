"""Completions that exist already: what is read, what is counted, what is refused."""

import json

import pytest

from judge.config import CanaryConfig
from judge.types import Score, Verdict
from orchestrator.canaries import canary_report, check_canaries, preferred
from orchestrator.given import find_given, read_given, read_labels, write_given
from rollout.errors import UsageError
from rollout.shards import find_shards, read_groups
from rollout.types import GroupShard


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def texts(group):
    return [completion.text for completion in group.completions]


def verdict(outcome, prompt_id="p"):
    return Verdict(prompt_id=prompt_id, a=0, b=1, outcome=outcome, p_a=None, judge_id="j", source="function")


def score(index, value):
    return Score(prompt_id="p", index=index, value=value, judge_id="j", source="function")


def test_rows_of_one_prompt_are_one_group(tmp_path):
    rows = [
        {"prompt": "q", "completions": ["one", "two"], "reference": "r"},
        {"prompt": [{"role": "user", "content": "q"}], "a": "three", "b": "four", "reference": "r"},
        {"prompt": "other", "chosen": [{"role": "assistant", "content": "five"}], "rejected": "six"},
    ]
    groups, unusable = read_given(write(tmp_path / "given.jsonl", rows))
    assert [texts(group) for group in groups] == [["one", "two", "three", "four"], ["five", "six"]]
    assert groups[0].prompt.metadata == {"reference": "r"}
    assert [completion.index for completion in groups[0].completions] == [0, 1, 2, 3]
    assert not unusable


def test_rows_that_cannot_be_judged_are_counted(tmp_path):
    rows = [
        {"prompt": "q", "completions": ["one", 2]},
        {"prompt": "q", "completions": ["\ud800", "two"]},
        {"prompt": "", "completions": ["one", "two"]},
        {"prompt": "q", "completions": ["one", "two"]},
    ]
    groups, unusable = read_given(write(tmp_path / "given.jsonl", rows))
    assert len(groups) == 1
    assert unusable == {"answer_malformed": 1, "answer_invalid_unicode": 1, "prompt_empty": 1}


def test_groups_are_written_as_shards_and_read_back(tmp_path):
    groups, _ = read_given(
        write(tmp_path / "given.jsonl", [{"prompt": f"q{n}", "a": "x", "b": "y"} for n in range(300)])
    )
    shards = write_given(tmp_path, "groups", groups)
    assert [shard.num_groups for shard in shards] == [256, 44]
    assert find_shards(tmp_path, "groups", GroupShard) == shards
    back = [group for shard in shards for group in read_groups(tmp_path, shard)]
    assert [(g.prompt.prompt_id, texts(g)) for g in back] == [(g.prompt.prompt_id, texts(g)) for g in groups]


def test_a_rounds_group_shards_are_taken_as_they_are(tmp_path):
    groups, _ = read_given(write(tmp_path / "given.jsonl", [{"prompt": "q", "a": "x", "b": "y"}]))
    write_given(tmp_path, "groups", groups)
    [found] = find_given(tmp_path / "groups")
    assert texts(read_groups(tmp_path / "elsewhere", found)[0]) == ["x", "y"]
    assert find_given(tmp_path / "given.jsonl") is None


def test_labels_are_read_and_the_first_place_of_the_chosen_is_drawn(tmp_path):
    rows = [{"prompt": "same", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(40)]
    pairs, _ = read_labels(write(tmp_path / "labels.jsonl", rows))
    assert len({pair.group.prompt.prompt_id for pair in pairs}) == 40
    for number, pair in enumerate(pairs):
        assert texts(pair.group)["ab".index(pair.label)] == f"good {number}"
    assert 8 < sum(pair.label == "a" for pair in pairs) < 32


def test_labels_of_ones_own_keep_their_places(tmp_path):
    rows = [{"prompt": "q", "a": "x", "b": "y", "label": label} for label in ("a", "b", "tie", "both_bad", "what")]
    pairs, unusable = read_labels(write(tmp_path / "labels.jsonl", rows))
    assert [pair.label for pair in pairs] == ["a", "b", "tie", "tie"]
    assert unusable == {"label_unknown": 1}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"prompt": "q"}], "expected `completions`, or two answers"),
        ([{"answer": "q", "a": "x", "b": "y"}], "expected a prompt in one of"),
        ([{"prompt": "q", "completions": [1]}], "answer_malformed 1"),
    ],
)
def test_a_file_that_cannot_be_judged_is_refused_in_one_line(tmp_path, rows, message):
    with pytest.raises(UsageError, match=message) as error:
        read_given(write(tmp_path / "given.jsonl", rows))
    assert "\n" not in str(error.value)


def test_answers_on_a_pair_come_to_one_word():
    assert preferred([score(0, 1.0), score(1, 2.0)]) == "b"
    assert preferred([score(0, 1.0), score(1, 1.0)]) == "tie"
    assert preferred([score(0, 1.0), score(1, None)]) is None
    assert preferred([verdict("a")]) == "a"
    assert preferred([verdict("both_bad")]) == "tie"
    assert preferred([verdict("abstain")]) is None
    assert preferred([]) is None


def test_a_tie_or_an_abstention_on_a_canary_is_not_right(tmp_path):
    pairs, _ = read_labels(
        write(tmp_path / "c.jsonl", [{"prompt": f"{n}", "a": "x", "b": "y", "label": "a"} for n in range(4)])
    )
    ids = [pair.group.prompt.prompt_id for pair in pairs]
    answers = [verdict("a", ids[0]), verdict("tie", ids[1]), verdict("abstain", ids[2])]
    report = canary_report(pairs, answers, CanaryConfig(path="c", min_accuracy=0.25))
    assert (report.num_right, report.num_tied, report.num_abstained, report.num_asked) == (1, 1, 2, 4)
    assert (report.accuracy, report.dropped) == (0.25, False)


def test_canaries_without_a_winner_are_refused_and_never_an_accuracy_of_zero(tmp_path):
    rows = [{"prompt": f"{n}", "a": "x", "b": "y", "label": label} for n, label in enumerate(("tie", "tie", "what"))]
    with pytest.raises(UsageError, match="2 ties and no pair with a winner"):
        check_canaries(CanaryConfig(path=write(tmp_path / "ties.jsonl", rows)))
    rows.append({"prompt": "9", "a": "x", "b": "y", "label": "a"})
    assert check_canaries(CanaryConfig(path=write(tmp_path / "some.jsonl", rows))) == 3
