"""Whatever people do, in whatever order: quorum exact, no label twice, counts equal, sealed rounds unchanged."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from judge.human.errors import Conflict, LeaseExpired, QueueRefusal, RoundSealed
from judge.human.resolution import settle, wanted_labels
from judge.human.trust import quarantine
from tests.support.tiny_queue import TinyQueue, a_task

LABELS = st.sampled_from(["a", "a", "b", "tie", "both_bad", "skip"])
WHO = st.integers(0, 3)
FOLDER = Path(tempfile.mkdtemp(prefix="rondo-queue-"))
RULES = {"overlap": 1, "double_share": 0.5, "max_labels": 3, "max_skips": 2, "lease_s": 100.0, "deadline_s": 2000.0}


class QueueMachine(RuleBasedStateMachine):
    """A queue of six pairs beside a model: who holds which pair until when, and who said what."""

    def __init__(self) -> None:
        super().__init__()
        for old in FOLDER.glob("queue.sqlite*"):
            old.unlink()
        shutil.copy(FOLDER / "template", FOLDER / "queue.sqlite")
        self.queue = TinyQueue(f"sqlite:///{FOLDER}/queue.sqlite", is_upgraded=True)
        self.people = [self.queue.ann, self.queue.ben, self.queue.cem, self.queue.dot]
        self.row_id = self.queue.round(*(a_task(f"t{index}") for index in range(6)), **RULES)
        self.held = {}  # token: (who, task, expires_at)
        self.said = {}  # (who, task): (label, label_id)
        self.used = []  # (who, lease, label, receipt)
        self.aside = set()
        self.sealed = None
        self.num_late = 0

    def teardown(self) -> None:
        self.queue.database.close()

    def key_of(self, lease):
        return lease.messages[0]["content"].split()[1][:-1]

    def now(self):
        return self.queue.clock.now

    @rule(who=WHO)
    def draw(self, who):
        who = self.people[who]
        if who in self.aside:
            return
        lease = self.queue.tasks.draw(who, holding=3)
        active = [token for token, (holder, _task, until) in self.held.items() if holder == who and until > self.now()]
        if self.sealed:
            assert lease is None
        elif lease is None or (lease.token in self.held and len(active) < 3):
            for key in (f"t{index}" for index in range(6)):
                assert not self.is_free(key, who), f"{key} was free for {who}"
            assert lease is not None or not active, "who finds nothing new sees what they hold"
        elif lease.token in self.held:
            assert self.held[lease.token][0] == who
        else:
            assert self.is_free(self.key_of(lease), who)
            self.held[lease.token] = (who, self.key_of(lease), lease.expires_at)
            self.used.append((who, lease, None, None))

    def is_free(self, key, who):
        outcome, wanted = self.standing(key)
        num_held = sum(task == key and until > self.now() for _who, task, until in self.held.values())
        mine = (who, key) in self.said or any(
            holder == who and task == key and until > self.now() for holder, task, until in self.held.values()
        )
        num_labels = len(self.votes(key))
        return outcome is None and not mine and num_labels + num_held < wanted

    def votes(self, key):
        given = [label for (who, task), (label, _id) in self.said.items() if task == key and who not in self.aside]
        return [label for label in given if label != "skip"]

    def standing(self, key):
        given = [label for (who, task), (label, _id) in self.said.items() if task == key and who not in self.aside]
        rules = self.queue.view(self.row_id).rules
        found = settle(self.votes(key), given.count("skip"), wanted_labels(key, rules), rules)
        return found.outcome, found.labels_wanted

    @precondition(lambda self: self.used)
    @rule(index=st.integers(0, 50), label=LABELS)
    def submit(self, index, label):
        index %= len(self.used)
        who, lease, before, receipt = self.used[index]
        if who in self.aside and not self.sealed:
            return
        try:
            again = self.queue.hand_in(who, lease, label)
        except LeaseExpired:
            assert not self.sealed
            assert lease.token not in self.held or self.held[lease.token][2] <= self.now()
            return
        except RoundSealed:
            assert self.sealed
            self.used[index] = (who, lease, label, receipt)
            return
        except Conflict:
            assert before is not None
            return
        if before is not None:
            assert again.is_replay
            assert (again.label_id, label) == (receipt.label_id, before)
            return
        assert not again.is_replay
        assert lease.token in self.held
        assert self.held.pop(lease.token)[2] > self.now()
        assert (who, self.key_of(lease)) not in self.said
        self.said[who, self.key_of(lease)] = (label, again.label_id)
        self.used[index] = (who, lease, label, again)
        self.note_seal()

    @precondition(lambda self: self.said)
    @rule(index=st.integers(0, 50))
    def undo(self, index):
        (who, key), (_label, label_id) = sorted(self.said.items())[index % len(self.said)]
        if who in self.aside:
            return
        try:
            lease = self.queue.tasks.undo(who, label_id)
        except RoundSealed:
            assert self.sealed
            return
        assert not self.sealed
        del self.said[who, key]
        self.held[lease.token] = (who, key, lease.expires_at)
        self.used.append((who, lease, None, None))

    @precondition(lambda self: self.held)
    @rule(index=st.integers(0, 50), deed=st.sampled_from(["release", "heartbeat"]))
    def hold_on_or_let_go(self, index, deed):
        token = sorted(self.held)[index % len(self.held)]
        who, key, until = self.held[token]
        try:
            lease = getattr(self.queue.tasks, deed)(who, token)
        except QueueRefusal:
            assert self.sealed or until <= self.now()
            return
        if deed == "release":
            del self.held[token]
            return
        assert not self.sealed
        assert until > self.now()
        self.held[token] = (who, key, lease.expires_at)

    @rule(seconds=st.sampled_from([1.0, 40.0, 120.0, 700.0]))
    def wait(self, seconds):
        self.queue.clock.now += seconds
        self.queue.rounds.seal_due()
        self.note_seal()

    @rule(who=st.integers(2, 3))
    def put_aside_or_bring_back(self, who):
        who = self.people[who]
        quarantine(self.queue.database, who, who not in self.aside, "boss")
        if not self.sealed and who not in self.aside:
            self.held = {token: one for token, one in self.held.items() if one[0] != who}
        self.aside ^= {who}
        if self.sealed:
            return
        self.note_seal()

    def note_seal(self):
        view = self.queue.view(self.row_id)
        if view.state == "sealed" and self.sealed is None:
            self.sealed = (view.sha256, self.queue.rounds.results(self.row_id))

    @invariant()
    def counts_are_right_and_a_seal_stands(self):
        self.queue.check_counts()
        if self.sealed:
            assert (self.queue.view(self.row_id).sha256, self.queue.rounds.results(self.row_id)) == self.sealed
            self.queue.rounds.verify(self.row_id)
            return
        num_resolved = 0
        for index in range(6):
            outcome, _wanted = self.standing(f"t{index}")
            num_resolved += outcome in {"a", "b", "tie", "both_bad"}
        assert self.queue.view(self.row_id).num_resolved == num_resolved


@pytest.fixture(scope="module", autouse=True)
def folder(template):
    shutil.copy(template, FOLDER / "template")
    yield
    shutil.rmtree(FOLDER)


TestQueueMachine = QueueMachine.TestCase
TestQueueMachine.settings = settings(max_examples=12, stateful_step_count=25, deadline=None)
