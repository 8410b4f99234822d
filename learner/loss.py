"""Preference losses: pure functions of sequence log-probabilities, one loss a pair."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class PairLogps:
    """Summed log-probabilities (nats) of B pairs' completions, each float[B], under the policy and the reference."""

    chosen_logp_B: Tensor
    rejected_logp_B: Tensor
    ref_chosen_logp_B: Tensor
    ref_rejected_logp_B: Tensor

    @property
    def chosen_logratio_B(self) -> Tensor:
        return self.chosen_logp_B - self.ref_chosen_logp_B

    @property
    def rejected_logratio_B(self) -> Tensor:
        return self.rejected_logp_B - self.ref_rejected_logp_B


class PreferenceLoss(Protocol):
    def __call__(self, logps: PairLogps, *, beta: float, label_smoothing: float) -> Tensor: ...


def sigmoid_loss(logps: PairLogps, *, beta: float, label_smoothing: float = 0.0) -> Tensor:
    """DPO with conservative label smoothing: loss float[B], one a pair.

    With h = log pi(w)/ref(w) - log pi(l)/ref(l):
        loss = -(1 - label_smoothing) log sigmoid(beta h) - label_smoothing log sigmoid(-beta h)
    Source: Rafailov et al., "Direct Preference Optimization" (arXiv:2305.18290), equation 7; the smoothed form is
    Mitchell's "A note on DPO with noisy preferences" (2023).
    """
    h_B = logps.chosen_logratio_B - logps.rejected_logratio_B
    kept_B = F.logsigmoid(beta * h_B)
    if label_smoothing == 0.0:
        return -kept_B
    return -(1 - label_smoothing) * kept_B - label_smoothing * F.logsigmoid(-beta * h_B)


def rewards(logps: PairLogps, *, beta: float) -> tuple[Tensor, Tensor]:
    """Implicit rewards beta log pi/ref of the chosen and the rejected completions, each float[B], without gradient."""
    return beta * logps.chosen_logratio_B.detach(), beta * logps.rejected_logratio_B.detach()


LOSSES: Mapping[str, PreferenceLoss] = MappingProxyType({"sigmoid": sigmoid_loss})
