"""What annotators do with pairs: drawn, held, labelled once, taken back."""

import json

import pytest
from sqlalchemy import select

from judge.human.errors import Conflict, Invalid, LeaseExpired, RoundSealed, TooFast, UnknownLease
from judge.human.schema import events, labels, leases, tasks
from judge.human.types import Submission
from tests.support.tiny_queue import LEFT, START, a_task


def test_the_most_telling_pair_comes_first_and_nobody_sees_one_twice(queue):
    queue.round(a_task("low", priority=-1.0), a_task("x"), a_task("high", priority=2.0), a_task("y"), overlap=2)
    seen = []
    while (lease := queue.tasks.draw(queue.ann)) is not None:
        seen.append(lease.messages[0]["content"])
        queue.hand_in(queue.ann, lease)
    assert seen == ["Question high?", "Question x?", "Question y?", "Question low?"]
    assert queue.draw(queue.ben).messages[0]["content"] == "Question high?"
    queue.check_counts()


def test_the_round_with_the_next_deadline_comes_first(queue):
    queue.round(a_task("later"), deadline_s=1000.0)
    queue.round(a_task("sooner"), deadline_s=10.0)
    assert queue.draw(queue.ann).messages[0]["content"] == "Question sooner?"


def test_a_reload_shows_the_same_pair_and_the_next_is_fetched_once(queue):
    queue.round(num=5)
    shown = queue.draw(queue.ann, holding=1)
    assert queue.draw(queue.ann, holding=1) == shown
    ahead = queue.draw(queue.ann, other_than=shown.token)
    assert ahead.task_id != shown.task_id
    assert queue.draw(queue.ann, other_than=shown.token) == ahead
    assert queue.draw(queue.ann) == shown, "the oldest of as many as may be held"
    assert queue.draw(queue.ben).task_id not in {shown.task_id, ahead.task_id}
    assert queue.tasks.current(queue.ann, ahead.token) == ahead
    queue.check_counts()


def test_sides_are_drawn_for_each_person_and_stay(queue):
    queue.round(num=30, overlap=2)
    swaps = {}
    for who in (queue.ann, queue.ben):
        while (lease := queue.tasks.draw(who)) is not None:
            name = lease.messages[0]["content"].split()[1][:-1]
            assert {lease.left, lease.right} == {f"first {name}", f"second {name}"}
            swaps[who, name] = lease.left == f"second {name}"
            assert swaps[who, name] == (queue.side_of_a(lease) == "right")
            queue.tasks.submit(who, lease.token, LEFT)
    assert 15 < sum(swaps.values()) < 45
    assert sum(swaps[queue.ann, f"t{i:05d}"] != swaps[queue.ben, f"t{i:05d}"] for i in range(30)) > 4
    assert queue.count(labels, labels.c.swapped) == sum(swaps.values())
    assert queue.count(labels, labels.c.swapped, labels.c.label != "b") == 0, "left of a swapped pair is b"
    queue.check_counts()


def test_a_lease_that_ends_gives_its_pair_to_the_next(queue):
    queue.round(num=1, lease_s=30.0)
    lost = queue.draw(queue.ann)
    assert queue.tasks.draw(queue.ben) is None
    queue.clock.now += 29
    assert queue.tasks.heartbeat(queue.ann, lost.token).expires_at == START + 59
    queue.clock.now += 29
    assert queue.tasks.draw(queue.ben) is None
    queue.clock.now += 1
    found = queue.draw(queue.ben)
    assert found.task_id == lost.task_id
    for deed in (queue.tasks.heartbeat, queue.tasks.current):
        with pytest.raises(LeaseExpired):
            deed(queue.ann, lost.token)
    with pytest.raises(LeaseExpired):
        queue.tasks.submit(queue.ann, lost.token, LEFT)
    assert queue.count(labels) == 0
    queue.check_counts()
    queue.hand_in(queue.ben, found)
    queue.check_counts()


def test_a_forgotten_browser_does_not_hold_a_pair_for_ever(queue):
    queue.round(num=1, lease_s=30.0)
    lease = queue.draw(queue.ann)
    for _ in range(17):
        queue.clock.now += 20
        assert queue.tasks.heartbeat(queue.ann, lease.token).expires_at <= START + 12 * 30
    queue.clock.now += 20
    with pytest.raises(LeaseExpired):
        queue.tasks.heartbeat(queue.ann, lease.token)
    assert queue.draw(queue.ben).task_id == lease.task_id


def test_a_pair_that_is_given_back_is_there_at_once(queue):
    queue.round(num=1)
    lease = queue.draw(queue.ann)
    queue.tasks.release(queue.ann, lease.token)
    queue.tasks.release(queue.ann, lease.token)
    assert queue.draw(queue.ben).task_id == lease.task_id
    with pytest.raises(LeaseExpired):
        queue.tasks.submit(queue.ann, lease.token, LEFT)
    queue.check_counts()


def test_the_same_label_again_is_the_same_receipt_and_another_one_a_conflict(queue):
    queue.round(num=2, criteria=(("safe", "Which is safer?"),))
    lease = queue.draw(queue.ann)
    body = Submission(choice="left", strength="clearly", comment="because", criteria={"safe": "right"})
    first = queue.tasks.submit(queue.ann, lease.token, body)
    queue.clock.now += 1000
    again = queue.tasks.submit(queue.ann, lease.token, body)
    assert (again.label_id, again.is_replay, first.is_replay) == (first.label_id, True, False)
    for other in (LEFT, Submission(choice="right", strength="clearly", comment="because", criteria={"safe": "right"})):
        with pytest.raises(Conflict):
            queue.tasks.submit(queue.ann, lease.token, other)
    assert queue.count(labels) == 1
    queue.check_counts()


@pytest.mark.parametrize("deed", ["current", "heartbeat", "release", "submit"])
def test_somebody_elses_lease_looks_like_none(queue, deed):
    queue.round(num=1)
    lease = queue.draw(queue.ann)
    more = (LEFT,) if deed == "submit" else ()
    refusals = []
    for who, token in ((queue.ben, lease.token), (queue.ann, "guessed"), (queue.ben, "' OR 1=1 --")):
        with pytest.raises(UnknownLease) as refusal:
            getattr(queue.tasks, deed)(who, token, *more)
        refusals.append(str(refusal.value))
    assert len(set(refusals)) == 1
    assert queue.count(labels) == 0


def test_what_a_round_does_not_ask_is_refused(queue):
    queue.round(num=1, criteria=(("safe", "Which is safer?"),))
    lease = queue.draw(queue.ann)
    for wrong in (
        Submission(choice="a"),
        Submission(choice="skip"),
        Submission(choice="skip", reason="  "),
        Submission(choice="left", strength="very"),
        Submission(choice="tie", strength="clearly"),
        Submission(choice="left", comment="x" * 4001),
        Submission(choice="skip", reason="x" * 4001),
        Submission(choice="left", criteria={"kind": "left"}),
        Submission(choice="left", criteria={"safe": "a"}),
    ):
        with pytest.raises(Invalid):
            queue.tasks.submit(queue.ann, lease.token, wrong)
    assert queue.count(labels) == 0
    queue.tasks.submit(queue.ann, lease.token, Submission(choice="left", comment="x" * 4000, criteria={"safe": "tie"}))


def test_a_label_that_is_quicker_than_reading_is_refused_and_says_when(queue):
    queue.round(num=2, min_dwell_s=2.0)
    first = queue.draw(queue.ann)
    ahead = queue.draw(queue.ann)
    queue.clock.now += 1.5
    with pytest.raises(TooFast) as refusal:
        queue.tasks.submit(queue.ann, first.token, LEFT)
    assert refusal.value.retry_after_s == pytest.approx(0.5)
    queue.clock.now += 0.5
    queue.tasks.submit(queue.ann, first.token, LEFT)
    queue.clock.now += 1.0
    with pytest.raises(TooFast):  # drawn three seconds ago, but only now in front of somebody
        queue.tasks.submit(queue.ann, ahead.token, LEFT)
    queue.clock.now += 1.0
    queue.tasks.submit(queue.ann, ahead.token, LEFT)
    with queue.database.read() as connection:
        assert connection.execute(select(labels.c.seconds).order_by(labels.c.id)).scalars().all() == [2.0, 2.0]


def test_more_labels_a_minute_than_allowed_are_refused(queue):
    queue.round(num=9, labels_per_minute=3)
    for _ in range(3):
        queue.clock.now += 10
        queue.label(queue.ann)
    lease = queue.draw(queue.ann)
    with pytest.raises(TooFast) as refusal:
        queue.tasks.submit(queue.ann, lease.token, LEFT)
    assert refusal.value.retry_after_s == pytest.approx(40.0)
    queue.label(queue.ben)
    queue.clock.now += 40
    queue.tasks.submit(queue.ann, lease.token, LEFT)


def test_disagreement_asks_for_a_third_label_of_a_third_person(queue):
    row_id = queue.round(num=1, overlap=2)
    queue.label(queue.ann, "a")
    queue.label(queue.ben, "b")
    queue.check_counts()
    assert queue.tasks.draw(queue.ann) is None
    assert queue.label(queue.cem, "b").is_round_sealed
    assert queue.rounds.results(row_id)[0].outcome == "b"
    queue.check_counts()


def test_a_pair_that_people_skip_is_given_up(queue):
    queue.round(num=2, max_skips=2)
    queue.label(queue.ann, "skip")
    assert queue.draw(queue.ann).messages[0]["content"] == "Question t00001?"
    queue.label(queue.ben, "skip")
    with queue.database.read() as connection:
        first = connection.execute(select(tasks).order_by(tasks.c.id)).first()
    assert (first.outcome, first.reason, first.num_skips) == ("abstain", "all_skipped", 2)
    queue.check_counts()


def test_undo_takes_a_label_back_and_shows_the_pair_as_before(queue):
    row_id = queue.round(num=2, criteria=(("safe", "Which is safer?"),))
    lease = queue.draw(queue.ann)
    given = Submission(choice="right", strength="slightly", comment="hm", criteria={"safe": "left"})
    receipt = queue.tasks.submit(queue.ann, lease.token, given)
    assert queue.view(row_id).num_resolved == 1
    queue.clock.now += 5
    again = queue.tasks.undo(queue.ann, receipt.label_id)
    assert (again.task_id, again.left, again.right) == (lease.task_id, lease.left, lease.right)
    assert again.token != lease.token
    body = {"choice": "right", "strength": "slightly", "reason": "", "comment": "hm", "criteria": {"safe": "left"}}
    assert again.former == body
    assert (queue.view(row_id).num_resolved, queue.count(labels)) == (0, 0)
    queue.check_counts()
    with pytest.raises(Conflict):  # a request that was under way for long does not bring the label back
        queue.tasks.submit(queue.ann, lease.token, given)
    with pytest.raises(UnknownLease):
        queue.tasks.undo(queue.ann, receipt.label_id)
    queue.tasks.submit(queue.ann, again.token, Submission(choice="tie"))
    assert (queue.view(row_id).num_resolved, queue.count(labels, labels.c.label == "tie")) == (1, 1)
    with queue.database.read() as connection:
        detail = connection.execute(select(events.c.detail).where(events.c.action == "undo")).scalar_one()
    assert json.loads(detail)["body"]["comment"] == "hm"


def test_undo_of_a_vote_that_settled_opens_the_pair_for_others_again(queue):
    queue.round(a_task("x"), a_task("y"), overlap=2)
    queue.label(queue.ann, "a")
    last = queue.label(queue.ben, "a")
    lease = queue.tasks.undo(queue.ben, last.label_id)
    queue.check_counts()
    assert queue.draw(queue.cem).messages[0]["content"] == "Question y?", "ben holds the second place"
    queue.tasks.release(queue.ben, lease.token)
    assert queue.draw(queue.cem).messages[0]["content"] == "Question x?"


def test_only_own_labels_of_unsealed_rounds_are_taken_back(queue):
    queue.round(num=1)
    queue.round(num=2)
    first = queue.label(queue.ann)
    second = queue.label(queue.ann)
    with pytest.raises(UnknownLease):
        queue.tasks.undo(queue.ben, second.label_id)
    with pytest.raises(RoundSealed):
        queue.tasks.undo(queue.ann, first.label_id)
    newest, oldest = queue.tasks.history(queue.ann, 10)
    assert (newest.label_id, newest.undoable, oldest.label_id, oldest.undoable) == (
        second.label_id,
        True,
        first.label_id,
        False,
    )
    assert queue.tasks.history(queue.ann, 1) == [newest]
    assert queue.tasks.history(queue.ben, 10) == []


def test_history_tells_the_side_that_was_chosen(queue):
    queue.round(num=12)
    while (lease := queue.tasks.draw(queue.ann)) is not None:
        queue.tasks.submit(queue.ann, lease.token, LEFT)
    assert {own.choice for own in queue.tasks.history(queue.ann, 100)} == {"left"}


def test_a_label_after_the_seal_is_stored_as_late_and_changes_nothing(queue):
    row_id = queue.round(num=2)
    lease = queue.draw(queue.ann)
    sealed = queue.rounds.seal(row_id, "boss")
    for _ in range(2):
        with pytest.raises(RoundSealed):
            queue.tasks.submit(queue.ann, lease.token, LEFT)
    with pytest.raises(Conflict):
        queue.tasks.submit(queue.ann, lease.token, Submission(choice="right"))
    assert queue.count(labels) == queue.count(labels, labels.c.is_late, ~labels.c.is_counted) == 1
    view = queue.view(row_id)
    assert (view.num_late, view.num_labels, view.sha256) == (1, 0, sealed.sha256)
    queue.rounds.verify(row_id)
    for deed in (queue.tasks.current, queue.tasks.heartbeat):
        with pytest.raises(RoundSealed):
            deed(queue.ann, lease.token)


def test_an_expired_lease_of_a_sealed_round_is_late_too(queue):
    row_id = queue.round(num=1, deadline_s=50.0, lease_s=20.0)
    lost = queue.draw(queue.ann)
    queue.clock.now = START + 30
    kept = queue.draw(queue.ann)
    assert kept.task_id == lost.task_id
    queue.clock.now = START + 60
    queue.rounds.seal_due()
    for token in (lost.token, kept.token):
        with pytest.raises(RoundSealed):
            queue.tasks.submit(queue.ann, token, LEFT)
    assert queue.count(labels) == 1, "one label of a person on a pair, late or not"
    queue.rounds.verify(row_id)


HOSTILE = [
    "\x00\ud800 \udfff\u202e",
    "'; DROP TABLE labels; --",
    "<script>alert(1)</script>",
    "%s %(x)s :name ?",
    "\u2028𝔘",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_any_text_goes_in_and_comes_out(queue, text):
    message = {"role": "user", "content": text}
    row_id = queue.round(a_task("x", messages=(message,), text_a=text, text_b=text * 2, origin="run"))
    lease = queue.draw(queue.ann)
    assert (lease.messages, {lease.left, lease.right}) == ((message,), {text, text * 2})
    queue.tasks.submit(queue.ann, lease.token, Submission(choice="left", comment=text, reason=text))
    (result,) = queue.rounds.results(row_id)
    assert (result.labels[0].comment, result.labels[0].reason) == (text, text)
    queue.rounds.verify(row_id)


def test_an_answer_of_a_megabyte_is_a_pair_like_others(queue):
    long = "word " * 200_000
    queue.round(a_task("x", text_a=long))
    lease = queue.draw(queue.ann)
    assert long in {lease.left, lease.right}
    assert queue.hand_in(queue.ann, lease).is_round_sealed


def test_progress_counts_own_work_and_what_is_left(queue):
    queue.round(num=3, deadline_s=500.0)
    empty = queue.tasks.progress(queue.ben)
    assert (empty.num_mine, empty.median_seconds, empty.num_waiting, empty.deadline_at) == (0, None, 3, START + 500)
    for seconds in (4.0, 10.0):
        lease = queue.draw(queue.ann)
        queue.clock.now += seconds
        queue.hand_in(queue.ann, lease)
    mine = queue.tasks.progress(queue.ann)
    assert (mine.num_mine, mine.num_mine_today, mine.median_seconds) == (2, 2, 7.0)
    assert (mine.num_waiting, mine.num_resolved, mine.num_tasks) == (1, 2, 3)
    queue.clock.now += 86_400
    assert queue.tasks.progress(queue.ann).num_mine_today == 0


def test_nobody_who_is_no_annotator_draws(queue):
    queue.round(num=1)
    with pytest.raises(UnknownLease):
        queue.tasks.draw(999)
    assert queue.count(leases) == 0


def test_a_pair_whose_way_to_the_page_was_lost_comes_again_once_nothing_new_is_left(queue):
    queue.round(num=2)
    lost = queue.tasks.draw(queue.ann)
    shown = queue.tasks.draw(queue.ann)
    assert shown.token != lost.token
    queue.tasks.submit(queue.ann, shown.token, Submission(choice="left"))
    assert queue.tasks.draw(queue.ann, other_than=shown.token).token == lost.token
    assert queue.tasks.draw(queue.ann, other_than=lost.token) is None, "what is on the desk is no next pair"
