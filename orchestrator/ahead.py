"""Pairs for the next round while this one is learnt: what max_policy_lag allows, and no more than one round of it."""

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from judge.types import PairShard
from orchestrator.chunks import in_chunks
from orchestrator.journal import Journal
from orchestrator.observer import Observer
from orchestrator.stages import Cluster
from rollout.errors import UsageError
from rollout.types import GroupShard, PolicyRef, Prompt, PromptChunk


class Ahead:
    """Generates and judges rounds: in the caller's thread, or ahead in one of its own.

    What is made ahead is durable like everything else, but only the loop commits it to the journal, in order.
    """

    def __init__(self, journal: Journal, cluster: Cluster, prompts: tuple[Prompt, ...], observer: Observer) -> None:
        self._journal, self._cluster, self._prompts, self._observer = journal, cluster, prompts, observer
        self._by_id = {prompt.prompt_id: prompt for prompt in prompts}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")
        self._begun: dict[int, Future[tuple[PairShard, ...]]] = {}

    def __enter__(self) -> "Ahead":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None:
            self._observer.stop("the run ended")  # nobody waits for what is under way
        self._thread.shutdown(cancel_futures=True)

    def shards(self, round_id: int, *, policy: PolicyRef) -> tuple[PairShard, ...]:
        """The round's pair shards, in the order of their chunks: those begun ahead, or made now."""
        begun = self._begun.pop(round_id, None)
        return self._build(round_id, policy) if begun is None else begun.result()

    def begin(self, round_id: int) -> None:
        """Begin a round while the one before is learnt, if there is such a round and its policy is known already.

        Judges and engines hold one round's settings at a time, so a round with other settings waits for its turn.
        """
        run = self._journal.run
        if round_id >= run.config.num_rounds or run.config_at(round_id) != run.config_at(round_id - 1):
            return
        policy = self._journal.policy_sampled(round_id)
        if policy is not None:
            self._journal.draw(round_id, self._prompts)
            self._begun[round_id] = self._thread.submit(self._build, round_id, policy)

    def wait(self) -> None:
        """Wait until nothing is under way, so that engines and judges are free; raises what went wrong there."""
        for begun in self._begun.values():
            begun.result()

    def _build(self, round_id: int, policy: PolicyRef) -> tuple[PairShard, ...]:
        chunks = chunk_prompts(self._journal, round_id, self._by_id)
        sampling = self._journal.run.config_at(round_id).rollout.sampling
        with self._observer.stage(round_id, "generate", total=sum(len(chunk.prompts) for chunk in chunks)):
            groups = self._cluster.rollout.generate(chunks, policy=policy, sampling=sampling)
            return self._cluster.judge.build(self._until_stopped(groups), round_id=round_id, num_chunks=len(chunks))

    def _until_stopped(self, groups: Iterable[GroupShard]) -> Iterator[GroupShard]:
        for group in groups:
            yield group
            self._observer.check_stop()


def chunk_prompts(journal: Journal, round_id: int, by_id: Mapping[str, Prompt]) -> list[PromptChunk]:
    """The round's drawn prompts in fixed chunks, so that a rerun makes the same shards."""
    drawn = [by_id.get(prompt_id) for prompt_id in journal.drawn(round_id)]
    known = [prompt for prompt in drawn if prompt is not None]
    if len(known) < len(drawn):
        raise UsageError(
            f"round {round_id} drew {len(drawn) - len(known)} prompts that prompts.path no longer has; "
            "put them back: prompts may be added to a run, not taken away from an open round"
        )
    size = journal.run.config_at(round_id).rollout.prompts_per_shard
    return in_chunks(known, size, round_id=round_id, shard_dir=f"{journal.run.round_dir(round_id)}/groups")
