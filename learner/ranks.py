"""The ranks that compute together as one learner. `Ranks` is one rank alone: it holds all and asks nobody."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from learner.sequence import TokenExchange

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows [start, stop) of a parameter's num rows that a rank holds; rows are its first dimension."""

    start: int
    stop: int
    num: int


class Ranks:
    """One rank of num_ranks. num_shards: how many ranks hold a model together; the others hold copies of theirs.

    Passes are dealt to teams of num_sequence ranks, which share each packed row's tokens through `exchange`. All ranks
    make the same calls in the same order. learner.rank_group has the ranks that are many.
    """

    rank = 0
    num_ranks = 1
    num_shards = 1
    num_sequence = 1
    exchange: "TokenExchange | None" = None

    @property
    def num_teams(self) -> int:
        return self.num_ranks // self.num_sequence

    @property
    def team(self) -> int:
        """Whose passes this rank computes."""
        return self.rank // self.num_sequence

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def shard(self) -> int:
        """Which part of the model this rank holds."""
        return self.rank % self.num_shards

    @property
    def is_writer(self) -> bool:
        """Whether this rank's part of the model is the copy that is written."""
        return self.rank < self.num_shards

    def loads_on(self, device: torch.device) -> torch.device:
        """Where a whole model may lie before it is shared out."""
        return device

    def share_out(self, root: nn.Module, blocks: Sequence[nn.Module], *, compute_dtype: torch.dtype) -> None:
        """Keep only this rank's rows of the parameters below `root`, and gather them block by block as it computes."""

    def rest(self, root: nn.Module) -> None:
        """Let go what a forward pass without a backward pass has gathered."""

    def masters(self, model: nn.Module) -> Mapping[str, nn.Parameter]:
        """This rank's rows of each parameter; what an optimizer does to them, it does to the model."""
        return dict(model.named_parameters())

    def rows(self, model: nn.Module) -> Mapping[str, Rows]:
        """Which rows those are."""
        return {name: whole_rows(parameter) for name, parameter in model.named_parameters()}

    def collect_gradients(self, model: nn.Module, masters: Mapping[str, nn.Parameter]) -> None:
        """Give the masters the gradients, summed over ranks, that backward passes left with the model."""

    def norm(self, own: Tensor) -> Tensor:
        """The norm of a vector of which every rank has a part with this norm."""
        return own

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of the ranks."""
        return [value]

    def gather_teams(self, value: T) -> list[T]:
        """Every team's value, which all of its ranks have."""
        return self.gather(value)[:: self.num_sequence]

    def from_first(self, make: Callable[[], T]) -> T:
        """What the first rank makes, on every rank; what it raises, every rank raises."""
        return make()

    def whole(self, masters: Mapping[str, nn.Parameter], rows: Mapping[str, Rows]) -> Mapping[str, Tensor]:
        """All rows of each parameter in the first rank's main memory; nothing on the others."""
        return {name: master.detach().cpu() for name, master in masters.items()}

    @contextmanager
    def named(self) -> Iterator[None]:
        """Where ranks wait for one another: a rank that is lost meanwhile becomes an InfraError with its name."""
        yield


def whole_rows(tensor: Tensor) -> Rows:
    num = tensor.shape[0] if tensor.ndim else 1
    return Rows(start=0, stop=num, num=num)


def shard_rows(num: int, *, shard: int, num_shards: int) -> Rows:
    """The rows of one shard: as many for each, rounded up, and what is left for the last ones (FSDP2's rule)."""
    size = -(-num // num_shards)
    return Rows(start=min(num, shard * size), stop=min(num, (shard + 1) * size), num=num)
