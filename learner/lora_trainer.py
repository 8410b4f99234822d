"""Training an adapter: its trainer, a reference that follows it, and the policies that the one model can stand for."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from learner.config import LearnerConfig
from learner.logps import CompletionLogps
from learner.lora import Adapter
from learner.moving import MovingReference
from learner.pairs import TrainingPair
from learner.ranks import Ranks
from learner.state import adapter_state, saved_masters, state_folder
from learner.trainer import Trainer
from rollout.types import Logps, PolicyRef

HeldPolicy = Callable[[], AbstractContextManager[PreTrainedModel]]


def adapter_trainer(
    adapter: Adapter, settings: LearnerConfig, *, compute_dtype: torch.dtype, clock: Callable[[], float], ranks: Ranks
) -> Trainer:
    """A trainer of the adapter alone, which a state may then fill."""
    how: dict[str, Any] = {"settings": settings, "compute_dtype": compute_dtype}
    trainer = Trainer(adapter.model, clock=clock, adapter=adapter, ranks=ranks, **how)
    if settings.reference == "ema" and settings.needs_reference:
        trainer.moving = MovingAdapter(adapter, trainer.completion_logps, **how)
    return trainer


def policy_held(
    adapter: Adapter | None, policy: PolicyRef, *, base: PolicyRef, run_dir: Path, ranks: Ranks
) -> HeldPolicy | None:
    """How the adapter's model stands for a policy while it is scored: the base, or an adapter whose state is kept.

    None where it cannot: a policy of which all weights were trained, or whose state is gone.
    """
    if adapter is None:
        return None
    if policy == base:
        return adapter.disabled
    state = state_folder(run_dir, policy.version)
    if state is None or adapter_state(state, version=policy.version, ranks=ranks) != adapter.shape:
        return None
    return lambda: adapter.holding(saved_masters(state, adapter.rows))


class MovingAdapter(MovingReference):
    """A reference that follows an adapter: its own matrices, in the policy's model while it is asked.

    The moving average is that of the matrices, not of their product.
    """

    def __init__(
        self, adapter: Adapter, logps_of: CompletionLogps, *, settings: LearnerConfig, compute_dtype: torch.dtype
    ) -> None:
        self._adapter = adapter
        super().__init__(logps_of, adapter.copy(), settings=settings, compute_dtype=compute_dtype)

    def _score(self, rows: Sequence[TrainingPair]) -> list[Logps]:
        with self._adapter.holding(self.tensors):
            return super()._score(rows)
