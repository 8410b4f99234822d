"""Who gets which chunk, and who is blamed when engines die: a small cluster of engines that are only numbers."""

import random
from collections import Counter

import pytest

from orchestrator.chunks import in_chunks
from orchestrator.cluster.chunk_queue import ChunkQueue
from rollout.errors import InfraError
from rollout.types import Prompt

NUM_PROMPTS, SIZE = 24, 4
DIED = InfraError("its process died")


def prompts(num=NUM_PROMPTS):
    return [
        Prompt(prompt_id=f"p{n}", messages=({"role": "user", "content": f"{n}"},), source="test") for n in range(num)
    ]


def make_queue(num=NUM_PROMPTS, *, size=SIZE, shards_in_flight=2):
    chunks = in_chunks(prompts(num), size, round_id=0, shard_dir="rounds/0000/groups")
    return ChunkQueue(chunks, max_attempts=3, shards_in_flight=shards_in_flight, warn=lambda text: None)


class FakeEngines:
    """Engines that finish tasks in any order, and die at a prompt of `poison` or when the dice say so."""

    def __init__(self, queue, num_engines, *, poison=(), kills=0, seed=0):
        self.queue, self.poison, self.kills, self.dice = queue, set(poison), kills, random.Random(seed)
        self.in_flight = {engine: [] for engine in range(num_engines)}
        self.done, self.num_deaths, self.most_at_once = {}, 0, 0

    def run(self):
        for _ in range(10_000):
            for engine, task in self.queue.assign(self.in_flight):
                self.in_flight[engine].append(task)
            busy = [engine for engine, tasks in self.in_flight.items() if tasks]
            self.most_at_once = max(self.most_at_once, *map(len, self.in_flight.values()))
            if not busy:
                assert not self.queue
                return self
            for engine in busy:
                tasks = self.in_flight[engine]
                if any(task.suspect for task in tasks):
                    assert len(tasks) == 1, "a suspect has company"
            self.step(self.dice.choice(busy))
        raise AssertionError("for ever")

    def step(self, engine):
        tasks = self.in_flight[engine]
        asked = {one.prompt_id for task in tasks for one in task.chunk.prompts} - {
            name for task in tasks for name in task.chunk.quarantined
        }
        killed = self.kills and self.dice.random() < 0.2
        if asked & self.poison or killed:
            self.kills -= bool(killed)
            self.num_deaths += 1
            self.in_flight[engine] = []
            self.queue.crashed(tasks, DIED)
            return
        task = tasks.pop(self.dice.randrange(len(tasks)))
        self.queue.finished(task)
        if task.trial_of is None:
            assert task.chunk.chunk_id not in self.done, "generated twice"
            self.done[task.chunk.chunk_id] = task.chunk

    def quarantined(self):
        return {name for chunk in self.done.values() for name in chunk.quarantined}


def everything(num=NUM_PROMPTS, size=SIZE):
    return list(range(-(-num // size)))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("num_engines", [1, 2, 5])
def test_the_guilty_are_found_and_nobody_else(num_engines, seed):
    poison = {"p6", "p7", "p20"}
    engines = FakeEngines(make_queue(), num_engines, poison=poison, seed=seed).run()
    assert sorted(engines.done) == everything()
    assert engines.quarantined() == poison
    assert engines.most_at_once == 2
    # Two for each chunk that is poisoned, in company and alone, and two for each prompt.
    assert engines.num_deaths <= 2 * 2 + 2 * 3


@pytest.mark.parametrize("seed", range(20))
def test_engines_that_are_killed_from_outside_blame_nobody(seed):
    engines = FakeEngines(make_queue(), 3, kills=3, seed=seed).run()
    assert sorted(engines.done) == everything()
    assert engines.quarantined() == set()


def test_chunks_are_spread_evenly():
    queue = make_queue(shards_in_flight=4)
    given = Counter(engine for engine, _ in queue.assign({"a": [], "b": [], "c": []}))
    assert given == {"a": 2, "b": 2, "c": 2}


def test_one_engine_is_emptied_for_a_suspect_while_others_go_on():
    queue = make_queue()
    in_flight = {engine: [] for engine in "ab"}
    for engine, task in queue.assign(in_flight):
        in_flight[engine].append(task)
    queue.crashed(in_flight.pop("b"), DIED)
    queue.finished(in_flight["a"].pop())
    assert queue.assign(in_flight) == [], "a runs dry, for there is nobody else"
    assert [engine for engine, task in queue.assign({**in_flight, "c": []}) if task.suspect] == ["c"]


def test_engines_that_die_of_everything_are_blamed_themselves():
    queue = make_queue()
    with pytest.raises(InfraError, match=r"3 prompts in a row .* the engines are at fault .* its process died"):
        FakeEngines(queue, 2, poison=[f"p{n}" for n in range(NUM_PROMPTS)]).run()


def test_a_chunk_that_kills_only_as_a_whole_is_not_tried_for_ever():
    class OnlyTogether(FakeEngines):
        def step(self, engine):
            [task] = self.in_flight[engine]
            self.poison = {"p0"} if task.trial_of is None else set()
            super().step(engine)

    with pytest.raises(InfraError, match=r"chunk 0 of round 0 has crashed 5 engines, though none of its prompts"):
        OnlyTogether(make_queue(4), 1).run()


def test_a_chunk_that_fails_is_tried_a_number_of_times():
    queue = make_queue(4)
    for _ in range(2):
        [(_, task)] = queue.assign({"a": []})
        queue.failed(task, InfraError("out of luck"))
    [(_, task)] = queue.assign({"a": []})
    with pytest.raises(InfraError, match=r"chunk 0 of round 0 failed 3 times, last with: out of luck"):
        queue.failed(task, InfraError("out of luck"))
