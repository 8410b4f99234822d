"""One learner: trains a round's pairs, keeps its own state, publishes policies. Ray stands in actor.py."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from judge.shards import read_pairs
from judge.types import PairShard
from learner.adaptive import at_round_start
from learner.advice import warnings_of
from learner.batches import shuffled, split
from learner.config import LearnerConfig
from learner.lora_publication import publish_adapted
from learner.metrics import round_means
from learner.model import context_length, named_dtype
from learner.pairs import TokenPair, Trainable, TrainingPair, check_signatures, mismatched, trainable
from learner.publication import Published, Rounding, publish_policy
from learner.ranks import Ranks
from learner.reference import with_reference
from learner.reference_cache import ReferenceCache
from learner.replay import replayed
from learner.residence import Residence
from learner.schedule import Position, learning_rate
from learner.state import (
    Tensors,
    random_states,
    read_state_manifest,
    set_random_states,
    state_folder,
)
from learner.state_writing import StateWriting, state_contents
from learner.trainer import Trainer
from learner.types import LearnerUpdate, StepMetrics
from rollout.shards import WeightOffer
from rollout.types import Logps, PolicyRef, TokenSequence, TokenSignature


class LearnerWorker:
    """Holds the policy that it learnt last, and restores any other from its files when asked to go on from that.

    ranks: those that compute together as one learner; each makes the same calls with the same arguments.
    """

    def __init__(
        self,
        *,
        settings: LearnerConfig,
        run_dir: Path,
        base: PolicyRef,
        seed: int,
        policy_dtype: str,
        num_rounds: int,
        clock: Callable[[], float] = time.perf_counter,
        ranks: Ranks | None = None,
    ) -> None:
        self.ranks = ranks or Ranks()
        self.run_dir = run_dir
        self.base = base
        self.seed = seed
        self.policy_dtype = policy_dtype
        self.num_rounds = num_rounds
        self.clock = clock
        self._offer = WeightOffer(run_dir)
        self.configure(settings)

    def configure(self, settings: LearnerConfig) -> None:
        """Learn what comes next by these settings; masters and moments come back from their files."""
        self.settings = settings
        dtype = self.policy_dtype if settings.publish_dtype == "policy" else settings.publish_dtype
        self.rounding = Rounding(dtype=named_dtype(dtype), mode=settings.publish_rounding, seed=self.seed)
        self.residence = Residence(
            settings,
            run_dir=self.run_dir,
            base=self.base,
            seed=self.seed,
            policy_dtype=self.policy_dtype,
            clock=self.clock,
            ranks=self.ranks,
        )
        self._cache = ReferenceCache()
        if settings.num_threads is not None:
            torch.set_num_threads(settings.num_threads)

    @property
    def num_steps(self) -> int:
        """Optimizer steps behind the policy in memory."""
        return self.residence.trainer.num_steps if self.residence.trainer else 0

    def prepare(self, policy_in: PolicyRef) -> None:
        """Bring the masters, moments and random states that belong to `policy_in` into memory. Idempotent.

        Raises UsageError where the policy cannot be learnt, IntegrityError where its state was altered.
        """
        if self.residence.policy != policy_in:
            self.residence.restored(policy_in)
            self.residence.release()  # generation comes first

    def release(self) -> None:
        """See Residence.release."""
        self.residence.release()

    def acquire(self) -> None:
        """See Residence.acquire."""
        self.residence.acquire()

    def train(
        self,
        *,
        round_id: int,
        shards: Sequence[PairShard],
        policy_in: PolicyRef,
        expected_signature: TokenSignature | None = None,
    ) -> Generator[StepMetrics, None, LearnerUpdate]:
        """Learn from a round's pairs: yields what each step measured and returns the update, state and policy written.

        Shards of older rounds are replayed among the round's own as far as learner.replay_share says. A round without
        a usable pair gives back `policy_in`. metrics holds num_rejected_REASON for pairs that could not be trained.
        Raises UsageError for shards of another tokenizer, DivergedError, IntegrityError.
        """
        check_signatures(shards, expected_signature)
        trainer = self.residence.restored(policy_in)
        limits = [n for n in (self.settings.max_length, context_length(trainer.model)) if n is not None]
        max_length = min(limits, default=None)
        ordered = sorted(shards, key=lambda shard: (shard.round_id, shard.chunk_id))
        fresh, older = ([s for s in ordered if (s.round_id == round_id) is own] for own in (True, False))
        pairs, num_rejected = self._trainable(fresh, max_length=max_length)
        cut = {"num_truncated": float(num)} if (num := sum(pair.is_cut for pair in pairs)) else {}
        rejected = {f"num_rejected_{reason}": float(count) for reason, count in num_rejected.items()}
        if not pairs:
            return LearnerUpdate(policy_out=policy_in, num_steps=0, num_pairs=0, metrics=rejected)
        num_fresh = len(pairs)
        self._cache = self._other_sidecars(round_id)
        if older and self.settings.replay_share:
            before, _ = self._trainable(older, max_length=max_length)
            share = self.settings.replay_share
            pairs += replayed(before, num_fresh=num_fresh, share=share, seed=self.seed, round_id=round_id)

        rows = self._rows(pairs, max_length=max_length, round_id=round_id, policy_in=policy_in)
        batches = self._plan(rows, round_id=round_id)
        steps = []
        self.residence.acquire()
        self.residence.policy = None  # from here on the masters belong to no policy until the round is written
        set_random_states(self.residence.random_states)
        trainer.objective = at_round_start(trainer.objective, self.settings)
        for number, batch in enumerate(batches):
            at = Position(
                steps_before=trainer.num_steps,
                step=number,
                num_steps=len(batches),
                round_id=round_id,
                num_rounds=self.num_rounds,
            )
            values = trainer.step(
                batch,
                learning_rate=learning_rate(self.settings, at),
                postmortem=self._round_folder(round_id) / "postmortem" / f"step-{number + 1:04d}.arrow",
            )
            steps.append(values)
            yield StepMetrics(step=number + 1, num_steps=len(batches), values=values)
        self.residence.random_states = random_states()

        published = self._commit(trainer, round_id=round_id, policy_in=policy_in)
        self.residence.policy = published.policy
        shares = {"published_share": published.share, "published_elements": published.elements}
        replay = {"num_replayed": float(len(pairs) - num_fresh)} if len(pairs) > num_fresh else {}
        warnings = warnings_of(self.settings, steps, num_rounds=self.num_rounds)
        reused = {"num_reference_reused": float(self._cache.num_reused)} if self._cache.num_reused else {}
        metrics = {**round_means(steps), **shares, **rejected, **replay, **reused, **cut}
        self.residence.release()
        return LearnerUpdate(
            policy_out=published.policy, num_steps=len(steps), num_pairs=num_fresh, metrics=metrics, warnings=warnings
        )

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        """Log-probabilities of each completion, float32[T] at temperature 1, under the resident or any other policy.

        See Residence.scorer. What was released stays away afterwards.
        """
        was_released = self.residence.offload.is_released
        try:
            return self.residence.scorer(policy)(sequences)
        finally:
            if was_released:
                self.residence.release()

    def _trainable(
        self, shards: Sequence[PairShard], *, max_length: int | None
    ) -> tuple[list[TokenPair], Mapping[str, int]]:
        pairs = (pair for shard in shards for pair in read_pairs(self.run_dir, shard))
        too_long = self.settings.too_long
        return trainable(pairs, max_length=max_length, rows=Trainable.by(self.settings), too_long=too_long)

    def _rows(
        self, pairs: Sequence[TokenPair], *, max_length: int | None, round_id: int, policy_in: PolicyRef
    ) -> list[TrainingPair]:
        """Pairs with what the losses need beside them: the reference's view, and mismatched answers for KTO."""
        rows = self._with_reference(pairs, name="reference", round_id=round_id, policy_in=policy_in)
        if not self.settings.estimates_kl:
            return rows
        others = mismatched(pairs, max_length=max_length)
        found = [other for other in others if other is not None]
        known = iter(self._with_reference(found, name="reference-kl", round_id=round_id, policy_in=policy_in))
        return [
            replace(row, mismatched=None if other is None else next(known))
            for row, other in zip(rows, others, strict=True)
        ]

    def _with_reference(
        self, pairs: Sequence[TokenPair], *, name: str, round_id: int, policy_in: PolicyRef
    ) -> list[TrainingPair]:
        if self.settings.reference == "ema" or not self.settings.needs_reference:
            return [TrainingPair(pair=pair) for pair in pairs]
        state = state_folder(self.run_dir, policy_in.version)
        if self.settings.reference == "base" or state is None:
            policy, sha256 = self.base, self.base.sha256
        else:
            # The policy at the round's start is its masters, from which learning goes on, not their rounded copy.
            policy, sha256 = policy_in, self._masters_sha256(policy_in, state)

        folder, cache, ranks = self._round_folder(round_id) / name, self._cache, self.ranks
        scorer = partial(self.residence.scorer, policy)
        return with_reference(pairs, folder=folder, reference_sha256=sha256, score=scorer, cache=cache, ranks=ranks)

    def _other_sidecars(self, round_id: int) -> ReferenceCache:
        """The latest rounds first: what is replayed or repeated most likely stands there."""
        names = ("reference", "reference-kl") if self.settings.estimates_kl else ("reference",)
        return ReferenceCache([self._round_folder(before) / name for before in range(round_id)[::-1] for name in names])

    def _plan(self, rows: Sequence[TrainingPair], *, round_id: int) -> list[list[TrainingPair]]:
        keys = [row.pair.pair_id for row in rows]
        epochs = [
            shuffled(keys, seed=self.seed, round_id=round_id, epoch=epoch) for epoch in range(self.settings.num_epochs)
        ]
        return [[rows[i] for i in batch] for order in epochs for batch in split(order, self.settings.batch_pairs)]

    def _masters_sha256(self, policy: PolicyRef, folder: Path) -> str:
        return read_state_manifest(folder, version=policy.version, ranks=self.ranks).masters_sha256

    def _commit(self, trainer: Trainer, *, round_id: int, policy_in: PolicyRef) -> Published:
        """Write state and policy side by side."""
        version = round_id + 1
        folder = state_folder(self.run_dir, version)
        assert folder is not None
        contents = state_contents(
            trainer.parameters,
            trainer.optimizer,
            random_states=self.residence.random_states,
            reference=None if trainer.moving is None else trainer.moving.tensors,
        )
        with StateWriting(folder, contents, rows=trainer.rows, ranks=self.ranks) as writing:
            masters = self.ranks.whole(trainer.parameters, trainer.rows)
            published = self.ranks.from_first(
                lambda: self._publish(trainer, masters, version=version, source=policy_in)
            )
            writing.commit(
                version=version, num_steps=trainer.num_steps, objective=trainer.objective, adapter=trainer.shape
            )
            return published

    def _publish(self, trainer: Trainer, masters: Tensors, *, version: int, source: PolicyRef) -> Published:
        where: dict[str, Any] = {
            "run_dir": self.run_dir,
            "source": self.run_dir / source.path,
            "state_before": state_folder(self.run_dir, source.version),
            "version": version,
            "rounding": self.rounding,
        }
        if trainer.adapter is None or self.settings.lora is None:
            published = publish_policy(trainer.model, masters=masters, **where)
        else:
            published = publish_adapted(trainer.adapter, self.settings.lora, matrices=masters, base=self.base, **where)
        # What engines of this node take from memory is durable by now, and named to nobody before its state is, too.
        self._offer.make(published.policy, self.run_dir / published.policy.path)
        return published

    def _round_folder(self, round_id: int) -> Path:
        return self.run_dir / "rounds" / f"{round_id:04d}"
