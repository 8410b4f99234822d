"""The policy in the learner's memory: restored from its files, let go for a while, and asked for log-probabilities."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from learner.config import LearnerConfig
from learner.logps import CompletionLogps, score
from learner.lora import load_adapted
from learner.lora_trainer import HeldPolicy, adapter_trainer, policy_held
from learner.model import check_head, choose_compute_dtype, choose_device, load_model
from learner.moving import moving_reference
from learner.offload import Offload
from learner.ranks import Ranks
from learner.reference_cache import Score
from learner.state import Tensors, load_state, saved_reference, state_folder
from learner.trainer import Trainer
from rollout.types import Logps, PolicyRef, TokenSequence


class Residence:
    """Holds one policy with its masters, moments and random states, and any other for as long as it is scored.

    policy: whose masters they are; None while they are being trained, and belong to no policy.
    """

    def __init__(
        self,
        settings: LearnerConfig,
        *,
        run_dir: Path,
        base: PolicyRef,
        seed: int,
        policy_dtype: str,
        clock: Callable[[], float],
        ranks: Ranks,
    ) -> None:
        self.settings, self.run_dir, self.base, self.seed = settings, run_dir, base, seed
        self.policy_dtype, self.clock, self.ranks = policy_dtype, clock, ranks
        self.device = choose_device(settings)
        self.compute_dtype = choose_compute_dtype(settings, self.device)
        self.trainer: Trainer | None = None
        self.policy: PolicyRef | None = None
        self.random_states: Tensors = {}
        self.offload = Offload(settings.offload, device=self.device)

    def release(self) -> None:
        """Let go of what learner.offload names, until `acquire`, or until training or scoring needs it. Idempotent."""
        if self.trainer is not None:
            self.offload.release(self.trainer)

    def acquire(self) -> None:
        """Bring back what `release` moved away. Idempotent."""
        if self.trainer is not None:
            self.offload.acquire(self.trainer)

    def restored(self, policy: PolicyRef) -> Trainer:
        """The trainer that goes on from this policy. Raises UsageError, IntegrityError."""
        if self.trainer is None or self.policy != policy:
            return self._restore(policy)
        self.acquire()
        return self.trainer

    def scorer(self, policy: PolicyRef) -> Score:
        """What computes log-probabilities under a policy: the resident one by its fp32 masters, as do all policies with
        an adapter and their base in the precision that it is trained in; any other as it was published."""
        if policy == self.policy:
            return self._score_with(self.restored(policy).completion_logps)
        if self.settings.lora is not None:
            # Base and adapters answer from the one model in memory; whatever is resident, the bits are the same.
            trainer = self.trainer = self.trainer or self._adapter_trainer()
            self.acquire()
            held = policy_held(trainer.adapter, policy, base=self.base, run_dir=self.run_dir, ranks=self.ranks)
            if held is not None:
                return lambda rows: self._score_holding(trainer, held, rows)
        self.release()  # the other policy takes the room of what it is not needed beside
        model = load_model(self.run_dir / policy.path, device=self.ranks.loads_on(self.device))
        logps_of = CompletionLogps(model.requires_grad_(False), ranks=self.ranks, compute_dtype=self.compute_dtype)
        return self._score_with(logps_of)

    def _score_holding(self, trainer: Trainer, held: HeldPolicy, rows: Sequence[TokenSequence]) -> list[Logps]:
        with held():
            return self._score_with(trainer.completion_logps)(rows)

    def _score_with(self, logps_of: CompletionLogps) -> Score:
        max_tokens = self.settings.max_tokens_per_microbatch
        return lambda rows: score(logps_of, rows, compute_dtype=self.compute_dtype, max_tokens=max_tokens)

    def _restore(self, policy: PolicyRef) -> Trainer:
        self.offload = Offload(self.settings.offload, device=self.device)
        self.trainer = self.policy = None  # frees the memory before the new masters come
        trainer = self._full_trainer(policy) if self.settings.lora is None else self._adapter_trainer()
        folder = state_folder(self.run_dir, policy.version)
        if folder is None:
            self.random_states = {"cpu": torch.Generator().manual_seed(self.seed).get_state()}
        else:
            manifest, self.random_states = load_state(
                folder,
                version=policy.version,
                parameters=trainer.parameters,
                optimizer=trainer.optimizer,
                rows=trainer.rows,
                ranks=self.ranks,
                adapter=trainer.shape,
            )
            trainer.num_steps, trainer.objective = manifest.num_steps, manifest.objective
            reference = saved_reference(folder, manifest, trainer.rows)
            if trainer.moving is not None and reference is not None:
                trainer.moving.load(reference)
        self.trainer, self.policy = trainer, policy
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
            device=self.ranks.loads_on(self.device),
            seed=self.seed,
        )
        check_head(adapter.model)
        settings, dtype = self.settings, self.compute_dtype
        return adapter_trainer(adapter, settings, compute_dtype=dtype, clock=self.clock, ranks=self.ranks)
