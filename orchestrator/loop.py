"""The loop. It has no resume branch: a finished stage comes back filled in, so to resume is to run."""

from typing import Literal

from orchestrator.ahead import Ahead
from orchestrator.canaries import ask_canaries, heed_canaries
from orchestrator.evaluation import evaluate
from orchestrator.journal import Journal
from orchestrator.observer import Observer
from orchestrator.probe import probe
from orchestrator.retention import retire
from orchestrator.scoreboard.config import AlarmConfig, GateConfig
from orchestrator.scoreboard.gate import Decision, GateScores, decide
from orchestrator.stages import Cluster
from orchestrator.types import RoundRecord, RoundScores
from rollout.errors import Stopped
from rollout.types import PolicyRef, Prompt


def run_rounds(
    journal: Journal, cluster: Cluster, prompts: tuple[Prompt, ...], held_out: tuple[Prompt, ...], observer: Observer
) -> PolicyRef:
    """Run every round that is not finished yet, to the end; the last policy."""
    policy = journal.base_policy
    with Ahead(journal, cluster, prompts, observer) as ahead:
        for round_id in range(journal.run.config.num_rounds):
            record = journal.open(round_id, policy_in=policy, prompts=prompts)
            config = journal.run.config_at(round_id)
            cluster.configure(config)
            if record.shards is None:  # generate and judge, streamed, bounded in flight
                record = journal.commit(record, shards=ahead.shards(round_id, policy=record.policy_sampled))
            if record.update is None:  # learn and publish
                if record.probe is None:
                    asked = ask_canaries(journal, cluster, record)
                    measured = probe(journal, cluster, record, config.probe)
                    record = journal.commit(record, canaries=asked, probe=measured)
                heed_canaries(record, config.judge.canaries, observer)
                ahead.begin(round_id + 1)  # where the policy lag allows, the next round's pairs are made meanwhile
                with observer.stage(round_id, "learn"):
                    update = cluster.learner.train(
                        round_id=round_id,
                        shards=[*journal.replay(round_id), *(record.shards or ())],
                        policy_in=record.policy_in,
                        on_step=observer.step,
                    )
                    record = journal.commit(record, update=update)
            if record.scores is None:  # measure, then promote or roll back
                ahead.wait()
                scores = evaluate(journal, cluster, record, held_out, observer)
                decision = gate(record, scores, config.evaluation.gate)
                policy_next = record.policy_out if decision.promote else record.policy_in
                record = journal.commit(record, scores=scores, gate_reasons=decision.reasons, policy_next=policy_next)
            policy = record.policy_next or record.policy_in
            observer.round_done(record)
            retire(journal, record, observer)
            heed_alarms(record, config.evaluation.alarm, observer)
    return policy


def gate(record: RoundRecord, scores: RoundScores, rules: GateConfig) -> Decision:
    """Whether the next round starts from this round's policy; the gold judge is believed where there is one."""
    judge: Literal["gold", "judge"] = "gold" if scores.standing("gold", "base") else "judge"
    # In the first round the base is the previous policy.
    against = scores.standing(judge, "previous") or (scores.standing(judge, "base") if record.round_id == 0 else None)
    answers = scores.answers
    return decide(
        rules,
        GateScores(
            win_rate_previous=against.win_rate if against else None,
            kl=answers.kl_k3 if answers else None,
            length_growth=answers.length_growth if answers else None,
            alarms=scores.alarms,
        ),
    )


def heed_alarms(record: RoundRecord, config: AlarmConfig, observer: Observer) -> None:
    """Raise Stopped where a round is over-optimised and the configuration says to stop."""
    if record.scores and record.scores.alarms and config.action == "stop":
        raise Stopped(
            f"round {record.round_id} raised an alarm ({record.scores.alarms[0]}); fork the run from an earlier round "
            "with a larger learner.beta, or set evaluation.alarm.action: warn to go on"
        )
