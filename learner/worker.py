"""One learner: trains a round's pairs, keeps its own state, publishes policies. Ray stands in actor.py."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from judge.shards import read_pairs
from judge.types import PairShard
from learner.adaptive import at_round_start
from learner.advice import warnings_of
from learner.batches import shuffled, split
from learner.config import LearnerConfig
from learner.logps import score
from learner.metrics import round_means
from learner.model import check_head, choose_compute_dtype, choose_device, context_length, load_model, named_dtype
from learner.moving import moving_reference
from learner.pairs import TokenPair, Trainable, TrainingPair, check_signatures, mismatched, trainable
from learner.publication import Published, Rounding, publish_policy
from learner.reference import Score, with_reference
from learner.replay import replayed
from learner.schedule import Position, learning_rate
from learner.state import (
    MASTERS,
    Tensors,
    load_state,
    random_states,
    read_state_manifest,
    save_state,
    saved_reference,
    set_random_states,
    state_folder,
)
from learner.trainer import Trainer
from learner.types import LearnerUpdate, StepMetrics
from rollout.types import Logps, PolicyRef, TokenSequence, TokenSignature


class LearnerWorker:
    """Holds the policy that it learnt last, and restores any other from its files when asked to go on from that."""

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
    ) -> None:
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
        rejected = {f"num_rejected_{reason}": float(count) for reason, count in num_rejected.items()}
        if not pairs:
            return LearnerUpdate(policy_out=policy_in, num_steps=0, num_pairs=0, metrics=rejected)
        num_fresh = len(pairs)
        if older and self.settings.replay_share:
            before, _ = self._trainable(older, max_length=max_length)
            share = self.settings.replay_share
            pairs += replayed(before, num_fresh=num_fresh, share=share, seed=self.seed, round_id=round_id)

        rows = self._rows(pairs, max_length=max_length, round_id=round_id, policy_in=policy_in)
        batches = self._plan(rows, round_id=round_id)
        steps = []
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
        metrics = {**round_means(steps), **shares, **rejected, **replay}
        return LearnerUpdate(
            policy_out=published.policy, num_steps=len(steps), num_pairs=num_fresh, metrics=metrics, warnings=warnings
        )

    def score(self, sequences: Sequence[TokenSequence], *, policy: PolicyRef) -> list[Logps]:
        """Log-probabilities of each completion, float32[T] at temperature 1, under the resident or any other policy.

        The resident policy answers with its fp32 masters, any other as it was published.
        """
        if policy == self._resident:
            return self._score_with(self._restored(policy).model)(sequences)
        return self._score_with(load_model(self.run_dir / policy.path, device=self.device))(sequences)

    def _trainable(
        self, shards: Sequence[PairShard], *, max_length: int | None
    ) -> tuple[list[TokenPair], Mapping[str, int]]:
        pairs = (pair for shard in shards for pair in read_pairs(self.run_dir, shard))
        return trainable(pairs, max_length=max_length, rows=Trainable.by(self.settings))

    def _restored(self, policy: PolicyRef) -> Trainer:
        return self._trainer if self._trainer and self._resident == policy else self._restore(policy)

    def _restore(self, policy: PolicyRef) -> Trainer:
        self._trainer = self._resident = None  # frees the memory before the new masters come
        model = load_model(self.run_dir / policy.path, device=self.device)
        check_head(model)
        settings, dtype, base = self.settings, self.compute_dtype, self.run_dir / self.base.path
        moving = moving_reference(settings, start=base, device=self.device, compute_dtype=dtype)
        trainer = Trainer(model, settings=settings, compute_dtype=dtype, clock=self.clock, moving=moving)
        folder = state_folder(self.run_dir, policy.version)
        if folder is None:
            self._random_states = {"cpu": torch.Generator().manual_seed(self.seed).get_state()}
        else:
            manifest, self._random_states = load_state(
                folder, version=policy.version, parameters=trainer.parameters, optimizer=trainer.optimizer
            )
            trainer.num_steps, trainer.objective = manifest.num_steps, manifest.objective
            reference = saved_reference(folder, manifest)
            if trainer.moving is not None and reference is not None:
                trainer.moving.load(reference)
        self._trainer, self._resident = trainer, policy
        return trainer

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
            policy, sha256 = policy_in, read_state_manifest(state, version=policy_in.version).sha256[MASTERS]

        def scorer() -> Score:
            if policy == self._resident:
                return self._score_with(self._restored(policy).model)
            return self._score_with(load_model(self.run_dir / policy.path, device=self.device))

        return with_reference(pairs, folder=self._round_folder(round_id) / name, reference_sha256=sha256, score=scorer)

    def _score_with(self, model: PreTrainedModel) -> Score:
        max_tokens = self.settings.max_tokens_per_microbatch
        return lambda rows: score(model, rows, compute_dtype=self.compute_dtype, max_tokens=max_tokens)

    def _plan(self, rows: Sequence[TrainingPair], *, round_id: int) -> list[list[TrainingPair]]:
        keys = [row.pair.pair_id for row in rows]
        epochs = [
            shuffled(keys, seed=self.seed, round_id=round_id, epoch=epoch) for epoch in range(self.settings.num_epochs)
        ]
        return [[rows[i] for i in batch] for order in epochs for batch in split(order, self.settings.batch_pairs)]

    def _commit(self, trainer: Trainer, *, round_id: int, policy_in: PolicyRef) -> Published:
        version = round_id + 1
        folder = state_folder(self.run_dir, version)
        assert folder is not None
        save_state(
            folder,
            version=version,
            num_steps=trainer.num_steps,
            parameters=trainer.parameters,
            optimizer=trainer.optimizer,
            random_states=self._random_states,
            objective=trainer.objective,
            reference=None if trainer.moving is None else trainer.moving.tensors,
        )
        return publish_policy(
            trainer.model,
            run_dir=self.run_dir,
            source=self.run_dir / policy_in.path,
            state_before=state_folder(self.run_dir, policy_in.version),
            version=version,
            rounding=self.rounding,
        )

    def _round_folder(self, round_id: int) -> Path:
        return self.run_dir / "rounds" / f"{round_id:04d}"
