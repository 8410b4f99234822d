"""What every loss is a function of: log-probabilities of both answers of B pairs, and the log ratios between them."""

from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

_LN_2 = 0.6931471805599453
# exp() beyond this says nothing but that policy and reference have parted, and would overflow further on.
_MAX_EXPONENT = 80.0
# The columns that depend on the policy; the loss has no gradient by any other.
POLICY_COLUMNS = ("chosen_logp_B", "rejected_logp_B", "chosen_shared_logp_B", "rejected_shared_logp_B")


@dataclass(frozen=True, kw_only=True, eq=False)
class PairLogps:
    """Summed log-probabilities (nats) of B pairs' completions, each float[B], under the policy and the reference.

    num_chosen_B, num_rejected_B: completion tokens, floating as the rest; 0 marks a side that is missing (one label).
    *_shared_logp_B: the part of the sum that lies within the shorter answer's length, so that a pair's two shared
    sums cover equally many tokens. tied_B: bool[B], rows that the judge called a tie. sampled_*_logp_B: under the
    policy that sampled the answer. *_certainty_B: sums of learner.head.TokenLogps' certainty, without gradient; zero
    where it was not asked for. Without a reference its columns are zero and has_reference is False.
    """

    chosen_logp_B: Tensor
    rejected_logp_B: Tensor
    ref_chosen_logp_B: Tensor
    ref_rejected_logp_B: Tensor
    num_chosen_B: Tensor
    num_rejected_B: Tensor
    chosen_shared_logp_B: Tensor
    rejected_shared_logp_B: Tensor
    ref_chosen_shared_logp_B: Tensor
    ref_rejected_shared_logp_B: Tensor
    tied_B: Tensor
    sampled_chosen_logp_B: Tensor
    sampled_rejected_logp_B: Tensor
    chosen_certainty_B: Tensor
    rejected_certainty_B: Tensor
    has_reference: bool = True

    @property
    def chosen_logratio_B(self) -> Tensor:
        return self.chosen_logp_B - self.ref_chosen_logp_B

    @property
    def rejected_logratio_B(self) -> Tensor:
        return self.rejected_logp_B - self.ref_rejected_logp_B

    @property
    def chosen_mean_logp_B(self) -> Tensor:
        """Log-probability a token of the chosen answers."""
        return self.chosen_logp_B / self.num_chosen_B.clamp(min=1)

    @property
    def rejected_mean_logp_B(self) -> Tensor:
        """Log-probability a token of the rejected answers."""
        return self.rejected_logp_B / self.num_rejected_B.clamp(min=1)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Every column by its name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def pair_logps(
    logps_RT: Tensor,
    ref_logps_RT: Tensor | None,
    mask_RT: Tensor,
    *,
    tied_B: Tensor,
    sampled_R: Tensor,
    certainty_RT: Tensor | None = None,
) -> PairLogps:
    """Sum per-token log-probabilities into pairs: R = 2B rows, the chosen answers first and then the rejected ones.

    logps_RT, ref_logps_RT float[R, T] are zero outside mask_RT bool[R, T], which marks completion tokens (their
    columns may start anywhere); ref_logps_RT None: no reference. sampled_R float[R]: sums as sampled. certainty_RT:
    as logps_RT, where the policy's certainty is wanted.
    """
    num_R = mask_RT.sum(dim=1)
    num_chosen_B, num_rejected_B = num_R.chunk(2)
    shared_R = torch.minimum(num_chosen_B, num_rejected_B).repeat(2)
    shared_RT = mask_RT & (mask_RT.cumsum(dim=1) <= shared_R[:, None])
    has_reference = ref_logps_RT is not None
    reference_RT = torch.zeros_like(logps_RT, requires_grad=False) if ref_logps_RT is None else ref_logps_RT
    columns = {
        ("chosen_logp_B", "rejected_logp_B"): logps_RT.sum(dim=1),
        ("ref_chosen_logp_B", "ref_rejected_logp_B"): reference_RT.sum(dim=1),
        ("chosen_shared_logp_B", "rejected_shared_logp_B"): (logps_RT * shared_RT).sum(dim=1),
        ("ref_chosen_shared_logp_B", "ref_rejected_shared_logp_B"): (reference_RT * shared_RT).sum(dim=1),
        ("num_chosen_B", "num_rejected_B"): num_R.to(logps_RT.dtype),
        ("sampled_chosen_logp_B", "sampled_rejected_logp_B"): sampled_R,
        ("chosen_certainty_B", "rejected_certainty_B"): _sums(certainty_RT, like=sampled_R),
    }
    halves = {
        name: half for names, value_R in columns.items() for name, half in zip(names, value_R.chunk(2), strict=True)
    }
    return PairLogps(**halves, tied_B=tied_B, has_reference=has_reference)


def _sums(values_RT: Tensor | None, *, like: Tensor) -> Tensor:
    return torch.zeros_like(like) if values_RT is None else values_RT.sum(dim=1)


def joined(parts: list[PairLogps]) -> PairLogps:
    """The pairs of several passes as one, in their order."""
    columns = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
    return PairLogps(**columns, has_reference=parts[0].has_reference)


def link(logratio_B: Tensor, *, f_divergence: str, f_alpha: float) -> Tensor:
    """f'(pi / ref) of the divergence that holds the policy to the reference, float[B]; reverse KL is the log ratio.

    With u = pi / ref, and constants left out, as they cancel between the two answers:
        reverse_kl       log u
        forward_kl       1 - 1 / u
        jensen_shannon   log(2 u / (1 + u))
        alpha            (1 - u^-alpha) / alpha, from reverse KL (alpha to 0) to forward KL (alpha 1)
    Source: Wang et al., "Beyond Reverse KL" (arXiv:2309.16240). TRL's coefficient is 1 - alpha.
    """
    if f_divergence == "reverse_kl":
        return logratio_B
    if f_divergence == "jensen_shannon":
        return _LN_2 + F.logsigmoid(logratio_B)
    alpha = 1.0 if f_divergence == "forward_kl" else f_alpha
    return -torch.expm1((-alpha * logratio_B).clamp(max=_MAX_EXPONENT)) / alpha


def linked_margin(logps: PairLogps, *, f_divergence: str = "reverse_kl", f_alpha: float = 0.5) -> Tensor:
    """h = link of the chosen answer's ratio less that of the rejected one's, float[B]."""
    chosen_B, rejected_B = (
        link(logratio_B, f_divergence=f_divergence, f_alpha=f_alpha)
        for logratio_B in (logps.chosen_logratio_B, logps.rejected_logratio_B)
    )
    return chosen_B - rejected_B


def smoothed_logistic(margin_B: Tensor, label_smoothing: float) -> Tensor:
    """-(1 - e) log sigmoid(margin) - e log sigmoid(-margin), float[B]."""
    kept_B = F.logsigmoid(margin_B)
    if label_smoothing == 0.0:
        return -kept_B
    return -(1 - label_smoothing) * kept_B - label_smoothing * F.logsigmoid(-margin_B)
