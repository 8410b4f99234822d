"""A learner of the tiny policy, and rounds and steps of it."""

from learner.config import LearnerConfig
from learner.worker import LearnerWorker
from rollout.shards import hash_policy
from rollout.types import PolicyRef
from tests.support.tiny_pairs import random_pairs, write_pair_shard

FIXED = {"learning_rate": 1e-3, "batch_pairs": 4, "compute_dtype": "float32", "device": "cpu"}


def base_of(run_dir):
    return PolicyRef(version=0, path="policies/v0000", sha256=hash_policy(run_dir / "policies/v0000"))


def worker(run_dir, *, ranks=None, **settings):
    chosen = LearnerConfig.model_validate({**FIXED, **settings})
    return LearnerWorker(
        settings=chosen,
        run_dir=run_dir,
        base=base_of(run_dir),
        seed=17,
        policy_dtype="float32",
        num_rounds=3,
        ranks=ranks,
    )


def learn(learner, **arguments):
    steps, training = [], learner.train(**arguments)
    while True:
        try:
            steps.append(next(training).values)
        except StopIteration as done:
            return steps, done.value


def one_round(run_dir, pairs, **settings):
    shard = write_pair_shard(run_dir, pairs)
    learner = worker(run_dir, **settings)
    steps, update = learn(learner, round_id=0, shards=[shard], policy_in=base_of(run_dir))
    return steps, update, learner


def two_steps(run_dir, settings):
    """What the first steps measure, without waiting for the round to be written."""
    shard = write_pair_shard(run_dir, random_pairs(8))
    training = worker(run_dir, **settings).train(round_id=0, shards=[shard], policy_in=base_of(run_dir))
    values = [next(training).values for _ in range(2)]
    training.close()
    return values
