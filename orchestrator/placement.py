"""What the actors of a run ask of a cluster; `orchestrator/cluster` starts them with just that."""

from dataclasses import dataclass

from judge.config import JudgeConfig, as_judge
from learner.config import LearnerConfig
from orchestrator.config import RunConfig
from rollout.config import RolloutConfig


@dataclass(frozen=True, kw_only=True)
class Share:
    """num actors of one kind, with cpus and gpus each."""

    name: str
    num: int
    cpus: float
    gpus: float


def placement(config: RunConfig, *, has_gpus: bool) -> tuple[Share, ...]:
    """The actors of a run in the order in which they are placed. has_gpus: whether the cluster has any."""
    rollout, learner = config.rollout, config.learner
    judges = {"judge": config.judge}
    if config.evaluation.gold is not None:
        judges["gold judge"] = as_judge(config.evaluation.gold)
    return (
        Share(name="learner", num=learner.num_ranks, cpus=learner.cpus, gpus=learner_gpus(learner, has_gpus=has_gpus)),
        Share(
            name="engine",
            num=rollout.num_engines,
            cpus=rollout.cpus_per_engine,
            gpus=engine_gpus(rollout, has_gpus=has_gpus),
        ),
        *(_of_judge(name, judge) for name, judge in judges.items()),
    )


def engine_gpus(settings: RolloutConfig, *, has_gpus: bool) -> float:
    """GPUs reserved for one engine."""
    if settings.gpus_per_engine is not None:
        return settings.gpus_per_engine
    return float(settings.tensor_parallel_size) if has_gpus else 0.0


def learner_gpus(settings: LearnerConfig, *, has_gpus: bool) -> float:
    """GPUs reserved for one rank of the learner."""
    return settings.gpus if settings.gpus is not None else float(has_gpus)


def _of_judge(name: str, judge: JudgeConfig) -> Share:
    return Share(name=name, num=judge.num_actors, cpus=judge.cpus_per_actor, gpus=judge.gpus_per_actor)
