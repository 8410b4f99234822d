"""What administrators see and do, and the webhook that tells of a sealed round."""

import hmac
import json
from types import SimpleNamespace

import pytest
from tenacity import wait_none

from judge.human.errors import Invalid, RoundSealed
from judge.human.oversight import adjudicate, annotator_rows, disagreements, events_of, throughput
from judge.human.trust import gold_accuracy, quarantine
from judge.human.types import Submission
from judge.human.webhook import tell
from rollout.errors import UsageError
from tests.support.tiny_queue import LEFT, START, a_task


def test_annotators_are_shown_with_their_work(queue):
    queue.round(num=6)
    for seconds, choice in ((2.0, "left"), (4.0, "left"), (9.0, "right"), (1.0, "tie")):
        lease = queue.draw(queue.ann)
        queue.clock.now += seconds
        queue.tasks.submit(queue.ann, lease.token, Submission(choice=choice))
    queue.label(queue.ann, "skip")
    quarantine(queue.database, queue.ben, True, "boss")
    ann, ben, *_ = annotator_rows(queue.database)
    assert (ann.name, ann.num_labels, ann.num_skips, ann.left_share) == ("ann", 4, 1, pytest.approx(2 / 3))
    assert ann.median_seconds == 2.0
    assert (ben.num_labels, ben.median_seconds, ben.left_share, ben.is_quarantined) == (0, None, None, True)


def test_gold_answers_are_shown(queue):
    plain = [a_task(f"t{index}") for index in range(20)]
    queue.round(*plain, *(a_task(f"g{index}", gold="a") for index in range(9)), gold_share=0.5)
    for label in "aabbaabbaabb":
        queue.label(queue.ann, label)
    (ann, *_) = annotator_rows(queue.database)
    with queue.database.read() as connection:
        assert (ann.gold_right, ann.gold_answered) == gold_accuracy(connection, queue.ann)
    assert 0 < ann.gold_right < ann.gold_answered < 12


def test_throughput_is_labels_a_minute_over_the_last_hour(queue):
    row_id = queue.round(num=9)
    queue.label(queue.ann)
    queue.clock.now += 3500
    for _ in range(3):
        queue.label(queue.ann)
    buckets = throughput(queue.database, row_id)
    assert (len(buckets), buckets[0][0], buckets[-1]) == (60, START - 100, (START + 3440, 3))
    assert sum(num for _at, num in buckets) == 4
    queue.clock.now += 200
    assert sum(num for _at, num in throughput(queue.database, row_id)) == 3


def test_an_administrators_word_settles_a_pair_and_can_be_taken_back(queue):
    boss = queue.annotator("boss", "administrator")
    row_id = queue.round(a_task("x"), a_task("y"), overlap=2, max_labels=2)
    queue.label(queue.ann, "a", comment="clear")
    queue.label(queue.ben, "b")
    (shown,) = disagreements(queue.database, row_id)
    assert (shown.key, shown.outcome, shown.reason, shown.text_a) == ("x", "abstain", "no_majority", "first x")
    assert [(name, label.label, label.comment) for name, label in shown.labels] == [
        ("ann", "a", "clear"),
        ("ben", "b", ""),
    ]
    assert queue.view(row_id).num_given_up == 1
    adjudicate(queue.database, shown.task_id, "tie", "boss")
    queue.check_counts()
    view = queue.view(row_id)
    assert (view.num_given_up, view.num_resolved) == (0, 1)
    assert disagreements(queue.database, row_id)[0].adjudicated_by == "boss"
    adjudicate(queue.database, shown.task_id, None, "boss")
    assert queue.view(row_id).num_given_up == 1
    adjudicate(queue.database, shown.task_id, "b", "boss")
    quarantine(queue.database, queue.ben, True, "boss")
    assert queue.view(row_id).num_resolved == 1, "votes do not move what an administrator said"
    queue.check_counts()
    queue.rounds.seal(row_id, "boss")
    first, _second = queue.rounds.results(row_id)
    assert (first.outcome, first.p_a) == ("b", None)
    with pytest.raises(RoundSealed):
        adjudicate(queue.database, shown.task_id, "a", "boss")
    actions = [(event.actor, event.action) for event in events_of(queue.database, row_id, 3)]
    assert actions == [("boss", "seal"), ("boss", "adjudicate"), ("boss", "withdraw_adjudication")]
    assert boss


def test_the_last_adjudication_ends_the_round(queue):
    queue.annotator("boss", "administrator")
    row_id = queue.round(num=1, overlap=2)
    task_id = queue.draw(queue.ann).task_id
    adjudicate(queue.database, task_id, "a", "boss")
    assert queue.view(row_id).sealed_by == "quorum"


def test_wrong_adjudications_are_refused(queue):
    queue.annotator("boss", "administrator")
    queue.round(a_task("g", gold="a"), a_task("x"), gold_share=0.5)
    task_id = queue.draw(queue.ann).task_id
    with pytest.raises(Invalid):
        adjudicate(queue.database, task_id, "skip", "boss")
    with pytest.raises(UsageError, match="no pair"):
        adjudicate(queue.database, "nothing", "a", "boss")
    with pytest.raises(UsageError, match="no administrator"):
        adjudicate(queue.database, task_id, "a", "nobody")


def test_events_name_who_did_what_newest_first(queue):
    row_id = queue.round(num=1)
    lease = queue.draw(queue.ann)
    queue.tasks.submit(queue.ann, lease.token, LEFT)
    found = events_of(queue.database, row_id, 10)
    assert [event.action for event in found] == ["seal", "label", "chunk", "open"]
    assert (found[1].actor, found[1].task_id, found[0].actor) == ("ann", lease.task_id, "quorum")
    assert found[0].detail["sha256"] == queue.view(row_id).sha256
    assert len(events_of(queue.database, None, 2)) == 2


class Hook:
    def __init__(self, *answers):
        self.answers, self.posts = list(answers), []

    def post(self, url, *, content, headers, timeout):
        self.posts.append((url, json.loads(content), headers, content))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return SimpleNamespace(status_code=answer)


def test_the_webhook_is_told_once_and_signed(queue, monkeypatch):
    monkeypatch.setenv("RONDO_WEBHOOK_SECRET", "key")
    row_id = queue.round(num=1, webhook="http://127.0.0.1/hook")
    hook = Hook(503, ConnectionError("down"), 204)
    assert tell(queue.rounds, hook, wait=wait_none()) == 0
    queue.label(queue.ann)
    assert tell(queue.rounds, hook, wait=wait_none()) == 1
    assert tell(queue.rounds, hook, wait=wait_none()) == 0
    assert len(hook.posts) == 3
    url, body, headers, content = hook.posts[-1]
    assert (url, body["event"], body["run_name"]) == ("http://127.0.0.1/hook", "round_sealed", "runs/tiny")
    assert (body["sha256"], body["num_resolved"]) == (queue.view(row_id).sha256, 1)
    assert headers["X-Rondo-Signature"] == "sha256=" + hmac.new(b"key", content, "sha256").hexdigest()


def test_a_webhook_that_does_not_answer_stays_untold(queue):
    row_id = queue.round(num=1, webhook="http://127.0.0.1/hook")
    queue.rounds.seal(row_id, "boss")
    assert tell(queue.rounds, Hook(500, 500, 302), wait=wait_none()) == 0
    assert [view.row_id for view in queue.rounds.untold()] == [row_id]
    assert tell(queue.rounds, Hook(200), wait=wait_none()) == 1
