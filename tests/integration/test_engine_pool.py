"""Engines that come and go on a real Ray cluster: whoever dies, the files are those of an undisturbed run.

One pool of two engines for all tests, which find it whole and leave it whole.
"""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated.autoscaler_pb2 import DrainNodeReason
from rich.console import Console

from orchestrator.base import link_base
from orchestrator.chunks import in_chunks
from orchestrator.cluster.rollout import RayRollout
from orchestrator.observer import Observer
from orchestrator.rundir import open_run
from rollout.build import build_worker
from rollout.prompts import prompt_id
from rollout.shards import hash_policy, read_groups
from rollout.types import PolicyRef, Prompt
from tests.support.moody_engine import POISON
from tests.support.one_thread import one_thread  # noqa: F401  (the actors' products are of one thread, too)
from tests.support.tiny_config import tiny_config
from tests.support.tiny_policy import make_tiny_policy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(400)]

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
NUM_PROMPTS, SIZE = 24, 2


class Heard(Observer):
    """Keeps what was warned of."""

    def __init__(self, root):
        super().__init__(root, console=Console(quiet=True))
        self.warnings = []

    def warn(self, text):
        self.warnings.append(text)


def prompts():
    texts = [f"question {n} about things" for n in range(NUM_PROMPTS)]
    messages = [({"role": "user", "content": text},) for text in texts]
    return [Prompt(prompt_id=prompt_id(each), messages=each, source="test") for each in messages]


class Pool:
    """A run directory, its engines, and what the same engine makes of the same chunks without Ray."""

    def __init__(self, root: Path, cluster: Cluster) -> None:
        self.cluster = cluster
        changes = {"rollout__engine": "tests.support.moody_engine:MoodyEngine", "rollout__num_engines": 2}
        config = tiny_config(
            make_tiny_policy(root / "policy"), **changes, rollout__prompts_per_shard=SIZE, rollout__sync_timeout_s=8
        )
        self.run = open_run(root / "run", config)
        self.policies = self.run.root / "policies"
        self.policy = link_base(self.run.root, root / "policy")
        self.sampling = config.rollout.sampling
        self.observer = Heard(self.run.root)
        self.rollout = RayRollout(self.run, config, self.observer)
        self.worker = build_worker(
            self.run.root / self.policy.path,
            index=9,
            settings=config.rollout,
            run_dir=self.run.root,
            dtype="float32",
            seed=config.seed,
            frozen_date=self.run.file.started_on,
        )

    def chunks(self, name, num=NUM_PROMPTS):
        return in_chunks(prompts()[:num], SIZE, round_id=0, shard_dir=name)

    def shards(self, name, num=NUM_PROMPTS):
        return self.rollout.generate(self.chunks(name, num), policy=self.policy, sampling=self.sampling)

    def groups(self, shards):
        """Every prompt's token ids, which the reference engine derives from its folder's name and nothing else."""
        groups = [group for shard in shards for group in read_groups(self.run.root, shard)]
        found = {group.prompt.prompt_id: [one.token_ids.tolist() for one in group.completions] for group in groups}
        assert len(found) == len(groups), "a prompt was answered twice"
        return found

    def undisturbed(self, name):
        """The same folder's files, made by one engine alone in this process, after those are out of the way."""
        made = self.files(name)
        (self.run.root / name).rename(self.run.root / f"{name}-made")

        async def alone():
            await self.worker.start(self.policy)
            for chunk in self.chunks(name):
                await self.worker.generate(chunk, self.policy, self.sampling)

        asyncio.run(alone())
        return made, self.files(name)

    def files(self, name):
        return {path.name: path.read_bytes() for path in (self.run.root / name).iterdir()}

    def pid(self, index):
        return int((self.policies / f"pid-{index}").read_text())

    def kill(self, index):
        os.kill(self.pid(index), signal.SIGKILL)

    def whole(self):
        self.rollout.load(self.policy, num_engines=2)
        warnings, self.observer.warnings = self.observer.warnings, []
        return warnings


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    pool = Pool(tmp_path_factory.mktemp("pool"), cluster)
    yield pool
    ray.shutdown()
    cluster.shutdown()


def test_a_round_begins_with_the_engine_that_has_room_and_the_other_joins(pool):
    shards = pool.shards("join")
    made = [next(shards)]
    pool.cluster.add_node(**NODE)
    assert len(made + list(shards)) == NUM_PROMPTS // SIZE
    assert pool.whole() == []
    assert pool.pid(0) != pool.pid(1)
    made, alone = pool.undisturbed("join")
    assert made == alone


def test_an_engine_that_is_killed_loses_nothing(pool):
    before = pool.pid(1)
    shards = pool.shards("killed")
    next(shards)
    pool.kill(1)
    assert len(list(shards)) == NUM_PROMPTS // SIZE - 1
    [warning] = pool.whole()
    assert "on engine 1: its process died" in warning
    assert pool.pid(1) != before
    made, alone = pool.undisturbed("killed")
    assert made == alone


def test_engines_that_cannot_take_new_weights_are_replaced(pool):
    """One fails, the other one hangs: neither of them answers, and nobody waits for ever."""
    pids = [pool.pid(0), pool.pid(1)]
    make_tiny_policy(pool.policies / "v0001", seed=1)
    sha256 = hash_policy(pool.policies / "v0001")
    pool.policy = PolicyRef(version=1, path="policies/v0001", sha256=sha256)
    (pool.policies / "fails-0").touch()
    (pool.policies / "hangs-1").touch()
    assert {shard.policy_sha256 for shard in pool.shards("synced", 4)} == {sha256}
    failed, hung = pool.whole()
    assert failed == "half of the weights fell off; engine 0 is replaced"
    assert "weight update of engine 1 to v1 was not done within rollout.sync_timeout_s = 8 s" in hung
    assert not {pool.pid(0), pool.pid(1)} & {*pids}


def test_an_engine_whose_node_drains_finishes_what_it_has(pool):
    [node] = [one for one in pool.cluster.list_all_nodes() if one is not pool.cluster.head_node]
    shards = pool.shards("drained")
    next(shards)
    gcs = GcsClient(address=pool.cluster.gcs_address)
    reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    assert gcs.drain_node(node.node_id, reason, "spot", int((time.time() + 60) * 1000))[0]
    time.sleep(2.5)  # the pool asks for drain notices every two seconds, and a fast machine is done before
    list(shards)
    pool.cluster.add_node(**NODE)
    [warning] = pool.whole()
    assert warning.startswith("the node of engine ")
    assert warning.endswith("drains; it takes no more work and is replaced")
    made, alone = pool.undisturbed("drained")
    assert made == alone


def test_a_prompt_that_kills_engines_is_found_and_the_others_are_answered(pool):
    guilty = prompts()[5].prompt_id
    (pool.policies / POISON).write_text(guilty)
    shards = list(pool.shards("poisoned", 8))
    assert {shard.chunk_id: dict(shard.rejected) for shard in shards} == {
        0: {},
        1: {},
        2: {"engine_crashed": (guilty,)},
        3: {},
    }
    deaths = [text for text in pool.whole() if "its process died" in text]
    assert len(deaths) == 4, "two of its chunk, and two of itself"
    again, later = list(pool.shards("poisoned", 8)), list(pool.shards("later", 8))
    assert [shard.chunk_id for shard in again] == [0, 1, 2, 3], "what is durable is not tried again"
    assert [shard.rejected for shard in later if shard.rejected] == [{"engine_crashed": (guilty,)}]
    assert pool.observer.warnings == []
    (pool.policies / POISON).unlink()
    made, alone = pool.groups(shards), pool.undisturbed("poisoned")
    assert sorted(made) == sorted(one.prompt_id for one in prompts()[:8] if one.prompt_id != guilty)
    assert {name for name in alone[0] if alone[0][name] != alone[1][name]} == {"00002.arrow", "00002.json"}
