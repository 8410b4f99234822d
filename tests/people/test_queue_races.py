"""Many annotators at once: each pair gets its labels, no more, whoever comes first."""

import threading

import pytest
from sqlalchemy import select

from judge.human.errors import Conflict, QueueRefusal, RoundSealed
from judge.human.leases import draw_lease
from judge.human.schema import labels, leases, tasks
from judge.human.types import Submission
from tests.support.tiny_queue import LEFT


def at_once(*deeds):
    """Run deeds in threads that start together; what each returned or raised."""
    gate, found = threading.Barrier(len(deeds)), [None] * len(deeds)

    def run(index, deed):
        gate.wait()
        try:
            found[index] = deed()
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(deeds)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


def test_two_who_race_for_the_last_pair_do_not_both_get_it(queue):
    for _ in range(5):
        queue.round(num=1)
        first, second = at_once(lambda: queue.tasks.draw(queue.ann), lambda: queue.tasks.draw(queue.ben))
        winner, lease = (queue.ann, first) if first else (queue.ben, second)
        assert [first, second].count(None) == 1
        queue.hand_in(winner, lease)
    queue.check_counts()


def test_the_loser_of_a_race_gets_the_next_pair(queue):
    queue.round(num=2)
    first, second = at_once(lambda: queue.tasks.draw(queue.ann), lambda: queue.tasks.draw(queue.ben))
    assert first.task_id != second.task_id


def test_a_round_that_is_sealed_while_a_pair_is_drawn_from_it_is_passed_over(queue, monkeypatch):
    queue.round(num=1)
    seals = [RoundSealed("between two statements"), None]

    def sealed_meanwhile(*given, **options):
        if seal := seals.pop(0):
            raise seal
        return draw_lease(*given, **options)

    monkeypatch.setattr("judge.human.tasks.draw_lease", sealed_meanwhile)
    assert queue.tasks.draw(queue.ann) is not None
    assert seals == []


def test_one_person_with_many_windows_never_holds_a_pair_twice(queue):
    queue.round(num=3, overlap=3)
    found = at_once(*[lambda: queue.tasks.draw(queue.ann, holding=9) for _ in range(6)])
    assert [type(one).__name__ for one in found] == ["Lease"] * 6, "who finds nothing new sees what they hold"
    assert len({lease.task_id for lease in found}) == len({lease.token for lease in found}) == 3
    queue.check_counts()


def test_a_label_that_is_sent_many_times_at_once_is_one_label(queue):
    queue.round(num=1)
    lease = queue.draw(queue.ann)
    same = at_once(*[lambda: queue.tasks.submit(queue.ann, lease.token, LEFT) for _ in range(4)])
    assert sorted(receipt.is_replay for receipt in same) == [False, True, True, True]
    assert len({receipt.label_id for receipt in same}) == 1
    assert queue.count(labels) == 1


def test_different_answers_at_once_are_one_label_and_a_conflict(queue):
    queue.round(num=2)
    lease = queue.draw(queue.ann)
    answers = [Submission(choice=choice) for choice in ("left", "right")]
    found = at_once(*[lambda answer=answer: queue.tasks.submit(queue.ann, lease.token, answer) for answer in answers])
    assert sum(isinstance(one, Conflict) for one in found) == 1
    assert queue.count(labels) == 1
    queue.check_counts()


def test_a_seal_sees_all_of_a_label_or_none_of_it(queue):
    for _ in range(6):
        row_id = queue.round(num=3)
        leases_of = [(who, queue.draw(who)) for who in (queue.ann, queue.ben)]
        deeds = [lambda pair=pair: queue.tasks.submit(pair[0], pair[1].token, LEFT) for pair in leases_of]
        found = at_once(*deeds, lambda row_id=row_id: queue.rounds.seal(row_id, "boss"))
        num_late = sum(isinstance(one, RoundSealed) for one in found)
        view = queue.view(row_id)
        assert (view.num_late, view.num_labels, view.num_resolved) == (num_late, 2 - num_late, 2 - num_late)
        assert sum(len(result.labels) for result in queue.rounds.results(row_id)) == 2 - num_late
        queue.rounds.verify(row_id)


@pytest.mark.parametrize("seal_share", [1.0, 0.7])
def test_a_crowd_labels_a_round_exactly(queue, seal_share):
    row_id = queue.round(num=24, overlap=2, max_labels=5, seal_share=seal_share, max_skips=9)
    people = [queue.annotator(f"p{index}") for index in range(8)]

    def work(who):
        num = 0
        while (lease := queue.tasks.draw(who)) is not None:
            num += 1
            choice = ("left", "right", "tie")[(who + num) % 3]
            try:
                receipt = queue.tasks.submit(who, lease.token, Submission(choice=choice))
                if num % 5 == 0:
                    again = queue.tasks.undo(who, receipt.label_id)
                    queue.tasks.submit(who, again.token, Submission(choice="left"))
            except RoundSealed:
                return num
        return num

    found = at_once(*[lambda who=who: work(who) for who in people])
    assert all(isinstance(num, int) for num in found), found
    queue.check_counts()
    queue.rounds.seal(row_id, "boss")
    queue.rounds.verify(row_id)
    with queue.database.read() as connection:
        for task in connection.execute(select(tasks)):
            mine = (labels.c.task_row == task.id) & labels.c.is_counted
            who = connection.execute(select(labels.c.annotator_id).where(mine)).scalars().all()
            assert len(set(who)) == len(who) <= task.labels_wanted
            if task.outcome not in {None, "abstain"}:
                assert len(who) == task.labels_wanted
    assert queue.count(leases, leases.c.state == "submitted") == queue.count(labels)


def test_refusals_in_a_crowd_undo_nobody_else(queue):
    queue.round(num=8)
    people = [queue.annotator(f"p{index}") for index in range(8)]
    held = [queue.draw(who) for who in people]
    answers = [LEFT if index % 2 else Submission(choice="skip") for index in range(8)]
    found = at_once(
        *[
            lambda who=who, lease=lease, answer=answer: queue.tasks.submit(who, lease.token, answer)
            for who, lease, answer in zip(people, held, answers, strict=True)
        ]
    )
    assert [isinstance(one, QueueRefusal) for one in found] == [True, False] * 4
    assert queue.count(labels) == 4
    queue.check_counts()
