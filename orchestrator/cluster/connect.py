"""All stages of a run, started side by side."""

from dataclasses import dataclass

from judge.config import as_judge
from orchestrator.cluster.judge import RayJudge
from orchestrator.cluster.label_server import LabelServer
from orchestrator.cluster.learner import RayLearner
from orchestrator.cluster.rollout import RayRollout
from orchestrator.config import RunConfig
from orchestrator.observer import Observer
from orchestrator.rundir import RunDir
from orchestrator.stages import Cluster


@dataclass(frozen=True, kw_only=True)
class Started:
    """The stages of a run, and what only who starts them needs to know."""

    cluster: Cluster
    rollout: RayRollout
    learner: RayLearner
    judges: tuple[RayJudge, ...]
    label_server: LabelServer


def connect(run: RunDir, observer: Observer) -> Started:
    """Start all actors side by side; nothing is waited for."""
    config = run.config
    label_server = LabelServer(run, observer)
    # The learner's ranks need room all at once, so they come before engines, which take what is left.
    learner = RayLearner(run, config, observer)
    rollout = RayRollout(run, config, observer)
    judge = RayJudge(run.root, run.run_id, config.judge, observer)
    gold = None
    if config.evaluation.gold is not None:
        gold = RayJudge(run.root, run.run_id, as_judge(config.evaluation.gold), observer, name="gold")

    def configure(changed: RunConfig) -> None:
        judge.configure(changed.judge)
        learner.configure(changed.learner)
        if gold is not None and changed.evaluation.gold is not None:
            gold.configure(as_judge(changed.evaluation.gold))

    return Started(
        cluster=Cluster(rollout=rollout, judge=judge, learner=learner, gold=gold, configure=configure),
        rollout=rollout,
        learner=learner,
        judges=(judge,) if gold is None else (judge, gold),
        label_server=label_server,
    )
