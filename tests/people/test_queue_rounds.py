"""Rounds: opened once, filled chunk by chunk, sealed once, and never changed again."""

import pytest
from sqlalchemy import update

from judge.human.errors import Invalid, RoundSealed
from judge.human.schema import labels, tasks
from judge.human.types import RoundKey, Rules
from rollout.errors import IntegrityError, UsageError
from tests.support.tiny_queue import START, a_task

KEY = RoundKey(run_id="run", round_id=0)
BODY = '{"comment":"x","criteria":{},"reason":"","strength":null}'


def test_opening_again_keeps_the_rules_of_the_first_time(queue):
    first = queue.rounds.open(KEY, "runs/one", Rules(overlap=2), 3)
    again = queue.rounds.open(KEY, "runs/two", Rules(overlap=1), 3)
    assert again == first
    assert (again.rules.overlap, again.state, again.opened_at) == (2, "open", START)
    held_out = queue.rounds.open(RoundKey(run_id="run", round_id=0, purpose="held_out"), "runs/one", Rules(), 1)
    assert held_out.row_id != first.row_id
    assert queue.rounds.find(KEY) == first
    assert queue.rounds.find(RoundKey(run_id="other", round_id=0)) is None
    assert queue.rounds.all() == [first, held_out]
    with pytest.raises(IntegrityError, match="3 chunks, and now has 4"):
        queue.rounds.open(KEY, "runs/one", Rules(), 4)


def test_a_chunk_comes_once_and_the_deadline_runs_from_the_last(queue):
    row_id = queue.rounds.open(KEY, "runs/one", Rules(deadline_s=60.0), 3).row_id
    queue.rounds.submit_chunk(row_id, 0, [a_task("x"), a_task("y", gold="a")])
    queue.rounds.submit_chunk(row_id, 0, [a_task("y", gold="a"), a_task("x")])
    queue.rounds.submit_chunk(row_id, 1, [])
    assert (queue.view(row_id).state, queue.view(row_id).num_tasks) == ("open", 1)
    with pytest.raises(IntegrityError, match="other pairs"):
        queue.rounds.submit_chunk(row_id, 0, [a_task("z")])
    with pytest.raises(IntegrityError, match="earlier chunk"):
        queue.rounds.submit_chunk(row_id, 2, [a_task("x")])
    with pytest.raises(IntegrityError, match="twice"):
        queue.rounds.submit_chunk(row_id, 2, [a_task("z"), a_task("z")])
    assert queue.count(tasks) == 2, "a refused chunk leaves nothing behind"
    queue.clock.now += 10
    queue.rounds.submit_chunk(row_id, 2, [a_task("z")])
    view = queue.view(row_id)
    assert (view.state, view.num_tasks, view.deadline_at) == ("collecting", 2, START + 70)
    queue.rounds.submit_chunk(row_id, 2, [a_task("z")])
    with pytest.raises(IntegrityError, match="one too many"):
        queue.rounds.submit_chunk(row_id, 3, [a_task("w")])
    assert queue.view(row_id) == view


def test_a_round_without_a_pair_seals_at_once(queue):
    row_id = queue.rounds.open(KEY, "runs/one", Rules(), 1).row_id
    queue.rounds.submit_chunk(row_id, 0, [a_task("g", gold="b")])
    assert (queue.view(row_id).state, queue.view(row_id).sealed_by) == ("sealed", "quorum")
    assert queue.rounds.results(row_id) == []
    assert queue.rounds.open(RoundKey(run_id="run", round_id=1), "runs/one", Rules(), 0).state == "sealed"


def test_labels_may_come_while_a_round_is_filled_and_then_seal_it(queue):
    row_id = queue.round(a_task("x"), num_chunks=2)
    assert not queue.label(queue.ann).is_round_sealed
    assert (queue.view(row_id).state, queue.view(row_id).num_resolved) == ("open", 1)
    with pytest.raises(Invalid):
        queue.rounds.seal(row_id, "boss")
    queue.rounds.submit_chunk(row_id, 1, [])
    assert (queue.view(row_id).state, queue.view(row_id).sealed_by) == ("sealed", "quorum")


def test_a_share_of_the_pairs_seals_the_round_and_the_rest_is_open(queue):
    row_id = queue.round(num=4, seal_share=0.75)
    assert [queue.label(queue.ann, label).is_round_sealed for label in ("a", "b", "tie")] == [False, False, True]
    results = queue.rounds.results(row_id)
    assert [(result.outcome, result.reason) for result in results] == [
        ("a", ""),
        ("b", ""),
        ("tie", ""),
        ("abstain", "deadline"),
    ]
    assert [len(result.labels) for result in results] == [1, 1, 1, 0]
    assert [result.p_a for result in results] == [None] * 4
    queue.rounds.verify(row_id)


def test_given_up_pairs_count_and_end_a_round_that_nothing_can_settle(queue):
    row_id = queue.round(num=2, overlap=2, max_labels=3, max_skips=1)
    assert queue.label(queue.ann, "skip").is_round_sealed is False
    people = zip((queue.ann, queue.ben, queue.cem), ("a", "b", "tie"), strict=True)
    assert [queue.label(who, label).is_round_sealed for who, label in people] == [False, False, True]
    view = queue.view(row_id)
    assert (view.num_given_up, view.num_resolved, view.sealed_by) == (2, 0, "exhausted")
    first, second = queue.rounds.results(row_id)
    assert (first.reason, second.reason) == ("all_skipped", "no_majority")
    assert (first.labels[0].label, first.labels[0].reason) == ("skip", "unclear")
    assert second.p_a is None, "an abstention is no probability"


def test_the_deadline_seals_and_an_extension_puts_it_off(queue):
    row_id = queue.round(num=2, deadline_s=100.0)
    queue.label(queue.ann)
    queue.clock.now += 99
    assert queue.rounds.seal_due() == []
    queue.rounds.extend(row_id, START + 200, "boss")
    queue.clock.now = START + 150
    assert queue.rounds.seal_due() == []
    queue.clock.now = START + 200
    (sealed,) = queue.rounds.seal_due()
    assert (sealed.row_id, sealed.sealed_by, sealed.sealed_at) == (row_id, "deadline", START + 200)
    assert queue.rounds.seal_due() == []
    with pytest.raises(RoundSealed):
        queue.rounds.extend(row_id, START + 900, "boss")


def test_a_deadline_moves_only_into_the_future(queue):
    row_id = queue.round(num=1)
    for wrong in (START, START - 1, float("inf"), float("nan")):
        with pytest.raises(Invalid):
            queue.rounds.extend(row_id, wrong, "boss")


def test_an_administrator_seals_once(queue):
    row_id = queue.round(num=2)
    with pytest.raises(UsageError, match="not sealed"):
        queue.rounds.results(row_id)
    sealed = queue.rounds.seal(row_id, "boss")
    assert (sealed.state, sealed.sealed_by, len(sealed.sha256)) == ("sealed", "boss", 64)
    queue.clock.now += 5
    assert queue.rounds.seal(row_id, "another") == sealed
    assert queue.tasks.draw(queue.ann) is None


def test_two_votes_make_a_probability(queue):
    row_id = queue.round(num=1, overlap=2)
    queue.label(queue.ann, "a")
    queue.label(queue.ben, "b")
    queue.label(queue.cem, "b", strength="clearly", comment="c")
    (result,) = queue.rounds.results(row_id)
    assert result.outcome == "b"
    assert result.p_a == pytest.approx(1 / 3)
    assert (result.labels[2].strength, result.labels[2].comment) == ("clearly", "c")


@pytest.mark.parametrize("change", [{"label": "b"}, {"seconds": 9.0}, {"body": "{}"}, {"is_counted": False}])
def test_a_sealed_round_that_somebody_wrote_into_is_noticed(queue, change):
    row_id = queue.round(num=1)
    queue.label(queue.ann)
    queue.rounds.verify(row_id)
    change = {"body": BODY} if "body" in change else change
    with queue.database.write() as connection:
        connection.execute(update(labels), change)
    with pytest.raises(IntegrityError, match="sealed as"):
        queue.rounds.verify(row_id)


def test_the_outbox_holds_sealed_rounds_with_a_webhook_until_told(queue):
    quiet = queue.round(num=1)
    loud = queue.round(num=1, webhook="http://127.0.0.1/hook")
    assert queue.rounds.untold() == []
    queue.rounds.seal(quiet, "boss")
    queue.rounds.seal(loud, "boss")
    assert [view.row_id for view in queue.rounds.untold()] == [loud]
    queue.rounds.told(loud)
    assert queue.rounds.untold() == []


def test_an_unknown_round_is_a_usage_error(queue):
    with pytest.raises(UsageError, match="no round 77"):
        queue.view(77)
