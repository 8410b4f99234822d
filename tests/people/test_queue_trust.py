"""Gold pairs show who labels with care; quarantine puts labels aside, and can be lifted."""

import pytest

from judge.human.errors import Quarantined
from judge.human.schema import labels, leases, tasks
from judge.human.trust import gold_accuracy, quarantine
from rollout.errors import UsageError
from tests.support.tiny_queue import LEFT, a_task

GOLD = {"gold_share": 0.5, "gold_min_accuracy": 0.7, "gold_min_answers": 3}


def accuracy(queue, who):
    with queue.database.read() as connection:
        return gold_accuracy(connection, who)


def work(queue, who, label, num):
    """Label num pairs; all gold says a. The number of gold pairs among them."""
    for _ in range(num):
        queue.label(who, label)
    return accuracy(queue, who)[1]


def a_round(queue, num=40, **rules):
    gold = [a_task(f"gold{index:03d}", gold="a") for index in range(num)]
    return queue.round(*gold, *(a_task(f"t{index:03d}") for index in range(num)), **(GOLD | rules))


def test_gold_is_mixed_in_at_its_share_and_nobody_can_tell(queue):
    row_id = a_round(queue, 100, gold_share=0.3)
    assert queue.view(row_id).num_tasks == 100
    num_gold = work(queue, queue.ann, "a", 60)
    assert 8 <= num_gold <= 28
    assert accuracy(queue, queue.ann) == (num_gold, num_gold)
    assert queue.view(row_id).num_resolved == 60 - num_gold == queue.view(row_id).num_labels
    assert work(queue, queue.ben, "a", 15) > 0, "gold is open to everyone"
    assert queue.count(leases, leases.c.annotator_id == queue.ann) == 60
    queue.check_counts()


def test_nobody_sees_a_gold_pair_twice_and_gold_alone_keeps_no_round_open(queue):
    row_id = queue.round(*(a_task(f"g{index}", gold="tie") for index in range(3)), a_task("x"), a_task("y"), **GOLD)
    while queue.view(row_id).state != "sealed":
        queue.label(queue.ann, "tie")
    assert [result.key for result in queue.rounds.results(row_id)] == ["x", "y"]
    queue.check_counts()


def test_wrong_gold_answers_quarantine_and_free_what_was_labelled(queue):
    row_id = a_round(queue)
    work(queue, queue.ben, "a", 4)
    with pytest.raises(Quarantined):
        work(queue, queue.ann, "b", 80)
    assert accuracy(queue, queue.ann) == (0, 3), "the third wrong answer is enough"
    assert (
        queue.view(row_id).num_labels
        == queue.count(labels, labels.c.annotator_id == queue.ben) - (accuracy(queue, queue.ben)[1])
    )
    assert queue.count(labels, labels.c.annotator_id == queue.ann, labels.c.is_counted) == 0
    assert queue.count(leases, leases.c.annotator_id == queue.ann, leases.c.state == "active") == 0
    queue.check_counts()


def test_a_quarantined_annotator_hands_nothing_in_and_takes_nothing_back(queue):
    queue.round(num=5)
    receipt = queue.label(queue.ann)
    lease = queue.draw(queue.ann)
    quarantine(queue.database, queue.ann, True, "boss")
    for deed in (
        lambda: queue.tasks.draw(queue.ann),
        lambda: queue.tasks.submit(queue.ann, lease.token, LEFT),
        lambda: queue.tasks.undo(queue.ann, receipt.label_id),
    ):
        with pytest.raises(Quarantined):
            deed()
    queue.check_counts()


def test_quarantine_is_reversible(queue):
    row_id = a_round(queue, overlap=2, gold_share=0.0)
    for who, label in ((queue.ann, "a"), (queue.ben, "a"), (queue.cem, "b")):
        for _ in range(6):
            queue.label(who, label)
    before = queue.view(row_id)
    quarantine(queue.database, queue.ben, True, "boss")
    quarantine(queue.database, queue.ben, True, "boss")
    during = queue.view(row_id)
    assert (before.num_resolved, during.num_resolved) == (6, 0)
    assert during.num_labels == before.num_labels - 6
    assert queue.count(tasks, tasks.c.is_available) > 0
    queue.check_counts()
    quarantine(queue.database, queue.ben, False, "boss")
    assert queue.view(row_id) == before
    queue.check_counts()


def test_lifting_starts_the_count_of_gold_answers_anew(queue):
    a_round(queue)
    with pytest.raises(Quarantined):
        work(queue, queue.ann, "b", 80)
    queue.clock.now += 1
    quarantine(queue.database, queue.ann, False, "boss")
    assert accuracy(queue, queue.ann) == (0, 0)
    queue.clock.now += 1
    assert work(queue, queue.ann, "a", 10) > 0


def test_a_sealed_round_does_not_change_when_somebody_is_quarantined(queue):
    row_id = queue.round(num=1)
    queue.label(queue.ann)
    sealed = queue.view(row_id)
    quarantine(queue.database, queue.ann, True, "boss")
    assert queue.view(row_id) == sealed
    queue.rounds.verify(row_id)


def test_lifting_a_quarantine_may_be_what_ends_a_round(queue):
    row_id = queue.round(num=2)
    queue.label(queue.ann)
    quarantine(queue.database, queue.ann, True, "boss")
    held = queue.draw(queue.ben)
    queue.label(queue.cem)
    queue.tasks.release(queue.ben, held.token)
    assert (queue.view(row_id).num_resolved, queue.view(row_id).state) == (1, "collecting")
    quarantine(queue.database, queue.ann, False, "boss")
    assert queue.view(row_id).sealed_by == "quorum"
    queue.check_counts()


def test_an_unknown_annotator_is_a_usage_error(queue):
    with pytest.raises(UsageError, match="no annotator 99"):
        quarantine(queue.database, 99, True, "boss")
