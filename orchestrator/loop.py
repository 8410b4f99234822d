"""The loop. It has no resume branch: a finished stage comes back filled in, so to resume is to run."""

from collections.abc import Sequence

from orchestrator.canaries import ask_canaries, heed_canaries
from orchestrator.chunks import in_chunks
from orchestrator.evaluation import evaluate
from orchestrator.journal import Journal
from orchestrator.observer import Observer
from orchestrator.probe import probe
from orchestrator.stages import Cluster
from orchestrator.types import RoundRecord
from rollout.errors import UsageError
from rollout.types import PolicyRef, Prompt, PromptChunk


def run_rounds(
    journal: Journal, cluster: Cluster, prompts: tuple[Prompt, ...], held_out: tuple[Prompt, ...], observer: Observer
) -> PolicyRef:
    """Run every round that is not finished yet, to the end; the last policy."""
    policy = journal.base_policy
    for round_id in range(journal.run.config.num_rounds):
        record = journal.open(round_id, policy_in=policy, prompts=prompts)
        config = journal.run.config_at(round_id)
        cluster.configure(config)
        if record.shards is None:  # generate and judge, streamed, bounded in flight
            with observer.stage(round_id, "generate", total=record.num_prompts):
                chunks = chunk_prompts(journal, record, prompts)
                groups = cluster.rollout.generate(
                    chunks, policy=record.policy_sampled, sampling=config.rollout.sampling
                )
                record = journal.commit(record, shards=cluster.judge.build(groups, round_id=round_id))
        if record.update is None:  # learn and publish
            if record.probe is None:
                asked = ask_canaries(journal, cluster, record)
                measured = probe(journal, cluster, record, config.probe)
                record = journal.commit(record, canaries=asked, probe=measured)
            heed_canaries(record, config.judge.canaries, observer)
            with observer.stage(round_id, "learn"):
                update = cluster.learner.train(
                    round_id=round_id, shards=record.shards or (), policy_in=record.policy_in, on_step=observer.step
                )
                record = journal.commit(record, update=update)
        if record.scores is None:  # measure, then promote
            scores = evaluate(journal, cluster, record, held_out, observer)
            record = journal.commit(record, scores=scores, policy_next=gate(record))
        policy = record.policy_next or record.policy_in
        observer.round_done(record)
    return policy


def chunk_prompts(journal: Journal, record: RoundRecord, prompts: Sequence[Prompt]) -> list[PromptChunk]:
    """The round's drawn prompts in fixed chunks, so that a rerun makes the same shards."""
    by_id = {prompt.prompt_id: prompt for prompt in prompts}
    drawn = [by_id.get(prompt_id) for prompt_id in journal.drawn(record.round_id)]
    known = [prompt for prompt in drawn if prompt is not None]
    if len(known) < len(drawn):
        raise UsageError(
            f"round {record.round_id} drew {len(drawn) - len(known)} prompts that prompts.path no longer has; "
            "put them back: prompts may be added to a run, not taken away from an open round"
        )
    size = journal.run.config_at(record.round_id).rollout.prompts_per_shard
    return in_chunks(
        known, size, round_id=record.round_id, shard_dir=f"{journal.run.round_dir(record.round_id)}/groups"
    )


def gate(record: RoundRecord) -> PolicyRef:
    """The policy that the next round starts from: the update's. Holding back or rolling back would be decided here."""
    assert record.update is not None
    return record.update.policy_out
