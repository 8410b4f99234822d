"""A group of actors called as one: room for all or none, and the name of whichever dies. These ranks learn nothing."""

import os
import time

import pytest
import ray
from rich.console import Console

from orchestrator.cluster.calls import Calls
from orchestrator.cluster.ranks import LearnerRanks
from orchestrator.observer import Observer
from rollout.errors import InfraError, UsageError

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]


@ray.remote
class FakeRank:
    def __init__(self, rank):
        self.rank = rank

    def open_rendezvous(self):
        return "here", 1234

    def start(self, base, policy, rendezvous):
        assert rendezvous == ("here", 1234)
        return self.rank

    def configure(self, settings):
        return settings

    @ray.method(num_returns="streaming")
    def train(self, *, dies, raises):
        yield "step"
        if dies == 0:
            os._exit(1)
        if dies is None and raises is None:
            yield "update"
            return
        time.sleep(60)  # as a rank waits for another one

    def train_along(self, *, dies, raises):
        if dies == self.rank:
            os._exit(1)
        if raises == self.rank:
            raise ValueError("out of something")

    def score(self, sequences, *, policy):
        return [self.rank, *sequences]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, object_store_memory=80 * 2**20)
    yield
    ray.shutdown()


def group(num_ranks=2, timeout_s=30.0):
    def make(rank, strategy):
        placed = {} if strategy is None else {"scheduling_strategy": strategy}
        return FakeRank.options(num_cpus=1, **placed).remote(rank)

    return LearnerRanks(make, num_ranks=num_ranks, num_shards=num_ranks, resources={"CPU": 1.0}, timeout_s=timeout_s)


@pytest.fixture(scope="module")
def ranks(cluster):
    return group()


@pytest.fixture
def calls(tmp_path):
    return Calls(Observer(tmp_path, console=Console(quiet=True)))


def train(ranks, calls, *, dies=None, raises=None):
    stream = ranks.train(dies=dies, raises=raises)
    return list(calls.stream(stream, what="learning", timeout_s=40, watch=ranks.check))


def test_the_first_rank_answers_for_all(ranks, calls):
    assert calls.get(ranks.start("base", "policy"), what="start", timeout_s=60, watch=ranks.check) == 0
    assert train(ranks, calls) == ["step", "update"]
    assert calls.get(ranks.score([7], policy="p"), what="score", timeout_s=60, watch=ranks.check) == [0, 7]
    assert calls.get(ranks.configure("new"), what="configure", timeout_s=60) == "new"


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_dies_is_named_and_the_group_is_replaced(ranks, calls, rank):
    started = time.monotonic()
    with pytest.raises(InfraError) as raised:
        train(ranks, calls, dies=rank)
    named = ranks.blame(raised.value)
    assert f"learner rank {rank} of 2: " in str(named)
    assert "died" in str(named)
    assert time.monotonic() - started < 20
    ranks.replace()
    assert train(ranks, calls) == ["step", "update"]


def test_a_rank_that_fails_alone_ends_the_wait_of_the_others(ranks, calls):
    with pytest.raises(InfraError, match="learner rank 1 of 2 failed: out of something"):
        train(ranks, calls, raises=1)
    ranks.replace()


def test_ranks_that_find_no_room_are_refused_in_words(ranks):
    with pytest.raises(UsageError, match=r"learner\.num_ranks: 4 times .* found no room within 1 s"):
        group(num_ranks=4, timeout_s=1.0)
