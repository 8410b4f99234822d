"""What becomes of engines in the pool, whose actors are stand-ins here that answer when the test says so."""

from types import SimpleNamespace

import pytest

from orchestrator.cluster import engine_pool
from orchestrator.cluster.calls import ActorDied
from orchestrator.cluster.engine_pool import EnginePool
from rollout.config import RolloutConfig
from rollout.errors import InfraError, IntegrityError
from rollout.types import LoadReport, PolicyRef

V0, V1 = (PolicyRef(version=n, path=f"policies/v000{n}", sha256=f"{n}" * 64) for n in range(2))


class Call:
    def __init__(self):
        self.answer = None

    def remote(self, *args):
        call = Call()
        self.made = [*getattr(self, "made", []), (call, args)]
        return call


class FakeCluster:
    """Actors by the order in which they were made; a clock; nodes that drain."""

    def __init__(self):
        self.actors, self.killed, self.warnings, self.nodes = [], [], [], frozenset()
        self.now = 0.0

    def make(self, index):
        actor = SimpleNamespace(index=index, node_id=Call(), start=Call(), load=Call())
        self.actors.append(actor)
        return actor

    def wait(self, refs, num_returns, timeout):
        return [ref for ref in refs if ref.answer is not None], []

    def get(self, ref, *, what, timeout_s):
        if isinstance(ref.answer, Exception):
            raise ref.answer
        return ref.answer

    def answer(self, place, method, answer):
        """Answer the latest call of this method; what it was asked with."""
        call, args = getattr(self.actors[place], method).made[-1]
        call.answer = answer
        return args

    def place(self, *places):
        for place in places:
            self.answer(place, "node_id", f"node-{place}")


@pytest.fixture
def cluster(monkeypatch):
    fake = FakeCluster()
    exceptions = SimpleNamespace(RayError=ZeroDivisionError)
    monkeypatch.setattr(
        engine_pool, "ray", SimpleNamespace(wait=fake.wait, kill=fake.killed.append, exceptions=exceptions)
    )
    monkeypatch.setattr(engine_pool, "Nodes", lambda: SimpleNamespace(draining=lambda: fake.nodes))
    monkeypatch.setattr(engine_pool, "time", SimpleNamespace(monotonic=lambda: fake.now))
    return fake


def make_pool(cluster, num_engines=1, **settings):
    observer = SimpleNamespace(warn=cluster.warnings.append, record=lambda *args, **values: None)
    settings = RolloutConfig(num_engines=num_engines, start_timeout_s=100, sync_timeout_s=20, **settings)
    return EnginePool(cluster.make, settings, cluster, observer, room="an engine takes 1 CPU")


def ready_pool(cluster, num_engines=1, **settings):
    pool = make_pool(cluster, num_engines, **settings)
    pool.want(V0)
    cluster.place(*range(num_engines))
    pool.tend()
    for place in range(num_engines):
        cluster.answer(place, "start", True)
    pool.tend()
    assert indices(pool) == list(range(num_engines))
    return pool


def indices(pool):
    return [engine.index for engine in pool.ready]


def test_whoever_has_room_takes_work_and_the_other_joins_with_the_policy_of_then(cluster):
    pool = make_pool(cluster, 2)
    assert len(cluster.actors) == 2, "asked for before there is a policy"
    cluster.place(0)
    pool.want(V0)
    pool.tend()
    cluster.answer(0, "start", True)
    pool.tend()
    assert indices(pool) == [0]
    pool.want(V1)
    assert indices(pool) == []
    cluster.place(1)
    assert cluster.answer(0, "load", LoadReport(version=1, seconds=0.1, size_bytes=1)) == (V1,)
    assert cluster.answer(1, "start", True) == (V0,)
    pool.tend()
    assert indices(pool) == [0]
    pool.tend()
    assert cluster.answer(1, "load", LoadReport(version=1, seconds=0.1, size_bytes=1)) == (V1,)
    pool.tend()
    assert indices(pool) == [0, 1]


def test_an_outdated_start_that_fails_is_begun_again_with_the_policy_of_now(cluster):
    pool = make_pool(cluster)
    pool.want(V0)
    pool.want(V1)
    cluster.place(0)
    pool.tend()
    cluster.answer(0, "start", IntegrityError("policies/v0000 was tidied away"))
    pool.tend()
    assert cluster.answer(0, "start", True) == (V1,)
    pool.tend()
    assert (indices(pool), cluster.killed) == ([0], [])


def test_a_start_that_hangs_is_named_and_the_engine_replaced(cluster):
    pool = make_pool(cluster)
    pool.want(V0)
    cluster.now = 1000.0
    cluster.place(0)
    pool.tend()
    cluster.now += 101
    pool.tend()
    assert cluster.warnings == [
        "start of engine 0 was not done within rollout.start_timeout_s = 100 s; engine 0 is replaced"
    ]
    assert cluster.killed == [cluster.actors[0]]
    cluster.now += 2.1
    pool.tend()
    assert len(cluster.actors) == 2


def test_starts_that_fail_are_tried_after_pauses_and_not_for_ever(cluster):
    pool = make_pool(cluster, max_attempts=3)
    pool.want(V0)
    for attempt, pause_s in enumerate([2.0, 4.0]):
        cluster.place(attempt)
        pool.tend()
        cluster.answer(attempt, "start", InfraError("no memory"))
        pool.tend()
        assert len(cluster.actors) == attempt + 1, "not at once"
        cluster.now += pause_s
        pool.tend()
        assert len(cluster.actors) == attempt + 2
    cluster.place(2)
    pool.tend()
    cluster.answer(2, "start", ActorDied("start of engine 0: its process died"))
    with pytest.raises(ActorDied, match="start of engine 0: its process died"):
        pool.tend()


@pytest.mark.parametrize("num_engines", [1, 2])
def test_what_no_other_machine_would_mend_ends_the_run_only_if_all_have_it(cluster, num_engines):
    pool = ready_pool(cluster, num_engines)
    pool.want(V1)
    cluster.answer(0, "load", IntegrityError("altered"))
    if num_engines == 1:
        with pytest.raises(IntegrityError, match="altered"):
            pool.tend()
        return
    cluster.answer(1, "load", LoadReport(version=1, seconds=0.1, size_bytes=1))
    pool.tend()
    assert indices(pool) == [1]
    assert cluster.warnings == ["altered; engine 0 is replaced"]


def test_a_weight_update_that_hangs_takes_only_its_engine_out(cluster):
    pool = ready_pool(cluster, 2)
    pool.want(V1)
    cluster.answer(1, "load", LoadReport(version=1, seconds=0.1, size_bytes=1))
    cluster.now += 21
    pool.tend()
    assert indices(pool) == [1]
    [warning] = cluster.warnings
    assert warning.startswith("weight update of engine 0 to v1 was not done within rollout.sync_timeout_s = 20 s")


def test_the_run_stops_when_too_few_find_room_in_time_and_says_what_it_waited_for(cluster):
    pool = make_pool(cluster, 3, min_engines=2)
    pool.want(V0)
    cluster.place(0)
    for cluster.now in (1000.0, 1099.0):
        pool.tend()
    cluster.now = 1101.0
    with pytest.raises(InfraError) as raised:
        pool.tend()
    assert str(raised.value) == (
        "0 engines are ready, expected at least rollout.min_engines = 2; waited 100 s for room for engine 1, "
        "room for engine 2; an engine takes 1 CPU: add nodes, or lower that"
    )


def test_an_engine_that_leaves_is_ended_when_it_has_nothing_left_and_replaced_before(cluster):
    pool = ready_pool(cluster)
    [engine] = pool.ready
    cluster.nodes, cluster.now = frozenset({"node-0"}), 10.0
    pool.tend(busy={engine})
    assert (indices(pool), cluster.killed, len(cluster.actors)) == ([], [], 2)
    pool.tend()
    assert cluster.killed == [cluster.actors[0]]
    assert engine.state == "gone"
    pool.lose(engine, InfraError("its node went"))
    assert len(cluster.actors) == 2


def test_an_engine_that_failed_but_lives_starts_again(cluster):
    pool = ready_pool(cluster)
    [engine] = pool.ready
    pool.mend(engine)
    assert indices(pool) == []
    assert cluster.answer(0, "start", True) == (V0,)
    pool.tend()
    assert (pool.ready, cluster.killed) == ([engine], [])
