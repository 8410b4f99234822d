"""Gradients of a loss that couples all pairs of an optimizer step, in passes that hold only some of them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from learner.losses.pair_logps import POLICY_COLUMNS, PairLogps, joined
from learner.metrics import PassOutput, gathered
from learner.pairs import TrainingPair
from learner.ranks import Ranks

Loss = Callable[[PairLogps], Tensor]
Forward = Callable[[Sequence[TrainingPair], Loss], PassOutput]


def backward_whole_batch(
    passes: Sequence[Sequence[TrainingPair]],
    forward: Forward,
    loss: Loss,
    *,
    join: Callable[[], Tensor] | None = None,
    ranks: Ranks | None = None,
) -> list[PassOutput]:
    """Add the gradient of loss(all pairs).mean() to the parameters; what each pass gave, with its part of the losses.

    Exact for any loss: the first passes give every log-probability without a graph, the loss's derivative by each of
    them follows at once, and a second forward of each pass carries it back to the parameters. loss takes the pairs in
    the order of the passes and returns float[B]. One pass is run once. Where ranks are many, passes are this rank's,
    loss takes the pairs of all in the order of the ranks, and `join` takes the place of an empty pass's forward.
    """
    ranks = ranks or Ranks()
    if len(passes) == 1 and ranks.num_ranks == 1:
        num_pairs = len(passes[0])
        output = forward(passes[0], loss)
        (output.loss_B.sum() / num_pairs).backward()  # type: ignore[no-untyped-call]
        return [output]

    with torch.no_grad():
        own = []
        for rows in passes:
            if rows:
                own.append(forward(rows, _no_loss))
            elif join is not None:
                join()
    outputs = gathered(own, ranks)
    sizes = [len(output.loss_B) for output in outputs]
    num_pairs = sum(sizes)
    whole = joined([output.logps for output in outputs])
    leaves = {name: whole.tensors[name].requires_grad_() for name in POLICY_COLUMNS}
    loss_B = loss(whole)
    slopes = torch.autograd.grad(loss_B.sum() / num_pairs, list(leaves.values()), allow_unused=True)
    slope_of = {name: slope for name, slope in zip(leaves, slopes, strict=True) if slope is not None}

    parts = {name: torch.split(slope, sizes) for name, slope in slope_of.items()}
    place = sum(ranks.gather_teams(len(own))[: ranks.team])
    for rows in passes:
        if rows:
            carried = forward(rows, _carrying({name: part[place] for name, part in parts.items()}))
            carried.loss_B.sum().backward()  # type: ignore[no-untyped-call]
            place += 1
        elif join is not None:
            join().backward()  # type: ignore[no-untyped-call]
    return [
        replace(output, loss_B=part_B)
        for output, part_B in zip(outputs, torch.split(loss_B.detach(), sizes), strict=True)
    ]


def _no_loss(logps: PairLogps) -> Tensor:
    return torch.zeros_like(logps.chosen_logp_B)


def _carrying(slopes: dict[str, Tensor]) -> Loss:
    """A stand-in whose gradient by the log-probabilities is the slopes."""

    def carried(logps: PairLogps) -> Tensor:
        total_B = torch.zeros_like(logps.chosen_logp_B)
        for name, slope_B in slopes.items():
            total_B = total_B + logps.tensors[name] * slope_B.to(total_B.device)
        return total_B

    return carried
