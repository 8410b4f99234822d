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
from learner.logps import CompletionLogps, score
from learner.lora import load_adapted
from learner.lora_publication import publish_adapted
from learner.lora_trainer import HeldPolicy, adapter_trainer, policy_held
from learner.metrics import round_means
from learner.model import check_head, choose_compute_dtype, choose_device, context_length, load_model, named_dtype
from learner.moving import moving_reference
from learner.offload import Offload
from learner.pairs import TokenPair, Trainable, TrainingPair, check_signatures, mismatched, trainable
from learner.publication import Published, Rounding, publish_policy
from learner.ranks import Ranks
from learner.reference import with_reference
from learner.reference_cache import ReferenceCache, Score
from learner.replay import replayed
from learner.schedule import Position, learning_rate
from learner.state import (
    Tensors,
    load_state,
    random_states,
    read_state_manifest,
    saved_reference,
    set_random_states,
    state_folder,
)
from learner.state_writing import StateWriting, state_contents
from learner.trainer import Trainer
from learner.types import LearnerUpdate, StepMetrics
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
        self.configure(settings)

    def configure(self, settings: LearnerConfig) -> None:
        """Learn what comes next by these settings; masters and moments come back from their files."""
        self.settings = settings
        self.device = choose_device(settings)
        self.compute_dtype = choose_compute_dtype(settings, self.device)
        dtype = self.policy_dtype if settings.publish_dtype == "policy" else settings.publish_dtype
        self.rounding = Rounding(dtype=named_dtype(dtype), mode=settings.publish_rounding, seed=self.seed)
        self._trainer: Trainer | None = None
        self._resident: PolicyRef | None = None
        self._random_states: Tensors = {}
        self._offload = Offload(settings.offload, device=self.device)
        self._cache = ReferenceCache()
        if settings.num_threads is not None:
            torch.set_num_threads(settings.num_threads)

    @property
    def num_steps(self) -> int:
        """Optimizer steps behind the policy in memory."""
        return self._trainer.num_steps if self._trainer else 0

    def prepare(self, policy_in: PolicyRef) -> None:
        """Bring the masters, moments and random states that belong to `policy_in` into memory. Idempotent.

        Raises UsageError where the policy cannot be learnt, IntegrityError where its state was altered.
        """
        if self._resident != policy_in:
            self._restore(policy_in)
            self.release()  # generation comes first

    def release(self) -> None:
        """Let go of what learner.offload names, until `acquire`, or until training or scoring needs it. Idempotent."""
        if self._trainer is not None:
            self._offload.release(self._trainer)

    def acquire(self) -> None:
        """Bring back what `release` moved away. Idempotent."""
        if self._trainer is not None:
            self._offload.acquire(self._trainer)

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
        trainer = self._restored(policy_in)
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
        self.acquire()
        self._resident = None  # from here on the masters belong to no policy until the round is written
        set_random_states(self._random_states)
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
        self._random_states = random_states()

        published = self._commit(trainer, round_id=round_id, policy_in=policy_in)
        self._resident = published.policy
        shares = {"published_share": published.share, "published_elements": published.elements}
        replay = {"num_replayed": float(len(pairs) - num_fresh)} if len(pairs) > num_fresh else {}
        warnings = warnings_of(self.settings, steps, num_rounds=self.num_rounds)
        reused = {"num_reference_reused": float(self._cache.num_reused)} if self._cache.num_reused else {}
        metrics = {**round_means(steps), **shares, **rejected, **replay, **reused, **cut}
        self.release()
        return LearnerUpdate(
            policy_out=published.policy, num_steps=len(steps), num_pairs=num_fresh, metrics=metrics, warnings=warnings
        )

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        """Log-probabilities of each completion, float32[T] at temperature 1, under the resident or any other policy.

        The resident policy answers with its fp32 masters, as do all policies with an adapter and their base in the
        precision that it is trained in; any other as it was published.
        """
        was_released = self._offload.is_released
        try:
            return self._scorer(policy)(sequences)
        finally:
            if was_released:
                self.release()

    def _trainable(
        self, shards: Sequence[PairShard], *, max_length: int | None
    ) -> tuple[list[TokenPair], Mapping[str, int]]:
        pairs = (pair for shard in shards for pair in read_pairs(self.run_dir, shard))
        too_long = self.settings.too_long
        return trainable(pairs, max_length=max_length, rows=Trainable.by(self.settings), too_long=too_long)

    def _restored(self, policy: PolicyRef) -> Trainer:
        if self._trainer is None or self._resident != policy:
            return self._restore(policy)
        self.acquire()
        return self._trainer

    def _restore(self, policy: PolicyRef) -> Trainer:
        self._offload = Offload(self.settings.offload, device=self.device)
        self._trainer = self._resident = None  # frees the memory before the new masters come
        trainer = self._full_trainer(policy) if self.settings.lora is None else self._adapter_trainer()
        shape = None if trainer.adapter is None else trainer.adapter.shape
        folder = state_folder(self.run_dir, policy.version)
        if folder is None:
            self._random_states = {"cpu": torch.Generator().manual_seed(self.seed).get_state()}
        else:
            manifest, self._random_states = load_state(
                folder,
                version=policy.version,
                parameters=trainer.parameters,
                optimizer=trainer.optimizer,
                rows=trainer.rows,
                ranks=self.ranks,
                adapter=shape,
            )
            trainer.num_steps, trainer.objective = manifest.num_steps, manifest.objective
            reference = saved_reference(folder, manifest, trainer.rows)
            if trainer.moving is not None and reference is not None:
                trainer.moving.load(reference)
        self._trainer, self._resident = trainer, policy
        return trainer

    def _full_trainer(self, policy: PolicyRef) -> Trainer:
        model = load_model(self.run_dir / policy.path, device=self.ranks.loads_on(self.device))
        check_head(model)
        settings, dtype, base, ranks = self.settings, self.compute_dtype, self.run_dir / self.base.path, self.ranks
        moving = moving_reference(settings, start=base, device=self.device, compute_dtype=dtype, ranks=ranks)
        return Trainer(model, settings=settings, compute_dtype=dtype, clock=self.clock, moving=moving, ranks=ranks)

    def _adapter_trainer(self) -> Trainer:
        adapter = load_adapted(
            self.run_dir / self.base.path,
            self.settings,
            base_sha256=self.base.sha256,
            policy_dtype=self.policy_dtype,
            compute_dtype=self.compute_dtype,
            device=self.device,
            seed=self.seed,
        )
        check_head(adapter.model)
        return adapter_trainer(adapter, self.settings, compute_dtype=self.compute_dtype, clock=self.clock)

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
        scorer = partial(self._scorer, policy)
        return with_reference(pairs, folder=folder, reference_sha256=sha256, score=scorer, cache=cache, ranks=ranks)

    def _scorer(self, policy: PolicyRef) -> Score:
        if policy == self._resident:
            return self._score_with(self._restored(policy).completion_logps)
        if self.settings.lora is not None:
            # Base and adapters answer from the one model in memory; whatever is resident, the bits are the same.
            trainer = self._trainer = self._trainer or self._adapter_trainer()
            self.acquire()
            held = policy_held(trainer.adapter, policy, base=self.base, run_dir=self.run_dir)
            if held is not None:
                return lambda rows: self._score_holding(trainer, held, rows)
        self.release()  # the reference takes the room of what it is not needed beside
        return self._score_with(self._loaded(policy))

    def _score_holding(self, trainer: Trainer, held: HeldPolicy, rows: Sequence[TokenSequence]) -> list[Logps]:
        with held():
            return self._score_with(trainer.completion_logps)(rows)

    def _other_sidecars(self, round_id: int) -> ReferenceCache:
        """The latest rounds first: what is replayed or repeated most likely stands there."""
        names = ("reference", "reference-kl") if self.settings.estimates_kl else ("reference",)
        return ReferenceCache([self._round_folder(before) / name for before in range(round_id)[::-1] for name in names])

    def _loaded(self, policy: PolicyRef) -> CompletionLogps:
        model = load_model(self.run_dir / policy.path, device=self.ranks.loads_on(self.device))
        return CompletionLogps(model.requires_grad_(False), ranks=self.ranks, compute_dtype=self.compute_dtype)

    def _score_with(self, logps_of: CompletionLogps) -> Score:
        max_tokens = self.settings.max_tokens_per_microbatch
        return lambda rows: score(logps_of, rows, compute_dtype=self.compute_dtype, max_tokens=max_tokens)

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
            random_states=self._random_states,
            reference=None if trainer.moving is None else trainer.moving.tensors,
        )
        shape = None if trainer.adapter is None else trainer.adapter.shape
        with StateWriting(folder, contents, rows=trainer.rows, ranks=self.ranks) as writing:
            masters = self.ranks.whole(trainer.parameters, trainer.rows)
            published = self.ranks.from_first(
                lambda: self._publish(trainer, masters, version=version, source=policy_in)
            )
            writing.commit(version=version, num_steps=trainer.num_steps, objective=trainer.objective, adapter=shape)
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
            return publish_policy(trainer.model, masters=masters, **where)
        return publish_adapted(trainer.adapter, self.settings.lora, base=self.base, **where)

    def _round_folder(self, round_id: int) -> Path:
        return self.run_dir / "rounds" / f"{round_id:04d}"
