"""A reference that follows the policy: TR-DPO's soft and hard updates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from learner.config import LearnerConfig
from learner.logps import CompletionLogps, score
from learner.model import load_model
from learner.pairs import TrainingPair
from learner.ranks import Ranks
from rollout.types import Logps


class MovingReference:
    """A frozen copy in memory, which no optimizer ever sees, moved towards the policy every so many steps.

    reference <- alpha policy + (1 - alpha) reference; alpha 1 copies the policy.
    Source: Gorbatovski et al., "Learn Your Reference Model for Real Good Alignment" (arXiv:2404.09656).
    """

    def __init__(
        self,
        logps_of: CompletionLogps,
        tensors: Mapping[str, Tensor],
        *,
        settings: LearnerConfig,
        compute_dtype: torch.dtype,
    ) -> None:
        self.model = logps_of
        self.tensors: dict[str, Tensor] = dict(tensors)
        self.alpha, self.num_steps = settings.ema_alpha, settings.ema_steps
        self._compute_dtype, self._max_tokens = compute_dtype, settings.max_tokens_per_microbatch

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up the weights that a run's state holds."""
        for name, own in self.tensors.items():
            own.copy_(tensors[name])

    @torch.no_grad()
    def follow(self, parameters: Mapping[str, Tensor], *, step: int) -> None:
        """Move after optimizer step `step` of the run, if it is due."""
        if step % self.num_steps:
            return
        for name, own in self.tensors.items():
            own.lerp_(parameters[name].to(own.dtype), self.alpha)

    def rescored(self, pairs: Sequence[TrainingPair]) -> list[TrainingPair]:
        """The pairs with their log-probabilities under the reference as it is now."""
        mismatched = [row.mismatched for row in pairs if row.mismatched is not None]
        logps = iter(self._score([*pairs, *mismatched]))
        scored = [replace(row, ref_chosen_logps=next(logps), ref_rejected_logps=next(logps)) for row in pairs]
        return [
            row
            if row.mismatched is None
            else replace(
                row, mismatched=replace(row.mismatched, ref_chosen_logps=next(logps), ref_rejected_logps=next(logps))
            )
            for row in scored
        ]

    def _score(self, rows: Sequence[TrainingPair]) -> list[Logps]:
        sides = [side for row in rows for side in row.sides]
        return score(self.model, sides, compute_dtype=self._compute_dtype, max_tokens=self._max_tokens)


def moving_reference(
    settings: LearnerConfig,
    *,
    start: Path,
    device: torch.device,
    compute_dtype: torch.dtype,
    ranks: Ranks | None = None,
) -> MovingReference | None:
    """A reference that starts from the policy in the folder `start`; None where it stands still or none is needed."""
    if settings.reference != "ema" or not settings.needs_reference:
        return None
    ranks = ranks or Ranks()
    model = load_model(start, device=ranks.loads_on(device)).requires_grad_(False)
    logps_of = CompletionLogps(model, ranks=ranks, compute_dtype=compute_dtype)
    return MovingReference(logps_of, ranks.masters(model), settings=settings, compute_dtype=compute_dtype)
