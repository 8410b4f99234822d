"""Ranks that are many: processes joined by torch.distributed, each with its rows of the model (FSDP2, HSDP).

Zhao et al., "PyTorch FSDP" (arXiv:2304.11277). Gradients are sums over ranks; losses are divided by the pairs of the
whole batch beforehand, so that they come out as one rank's. Tensors of the model travel by NCCL on GPUs; Python values
and all that goes to the first rank's main memory by gloo.
"""

import pickle
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from learner.ranks import Ranks, Rows, shard_rows
from learner.sequence import TokenExchange
from rollout.errors import InfraError, RondoError

T = TypeVar("T")
# Ranks whose connection broke hear of it within moments of each other.
_ROLL_CALL_S = 5.0
# How the errors of gloo and NCCL begin or what they say; a rank's own failure says none of it.
_TRANSPORT = ("gloo", "nccl", "connection", "socket", "tcpstore")


def open_rendezvous(host: str, *, num_ranks: int, timeout_s: float) -> tuple[TCPStore, str, int]:
    """The store in which ranks find each other, on a port that the system finds free, and its address."""
    store = TCPStore(host, 0, num_ranks, is_master=True, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)
    return store, host, store.port


def join_ranks(
    address: tuple[str, int],
    *,
    rank: int,
    num_ranks: int,
    num_shards: int,
    device: torch.device,
    timeout_s: float,
    num_sequence: int = 1,
    gather_once: bool = False,
    roll_call_s: float = _ROLL_CALL_S,
) -> "RankGroup":
    """Join the other ranks; every wait for them has the deadline timeout_s.

    gather_once: a block that the forward pass has gathered stays until the backward pass has been through it.
    num_shards < num_ranks: ranks of one node hold a model together, and nodes hold copies. num_sequence: so many ranks
    in their order share each row's tokens. Raises InfraError where they do not all come.
    """
    deadline = timedelta(seconds=timeout_s)
    try:
        store = TCPStore(*address, num_ranks, is_master=False, timeout=deadline)
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=num_ranks, timeout=deadline)
    except (dist.DistError, RuntimeError) as error:
        raise InfraError(
            f"rank {rank} of {num_ranks} could not join the others at {address[0]}:{address[1]} within {timeout_s:g} s"
            f" ({_line(error)}); see the log of the rank that is missing"
        ) from error
    return RankGroup(
        store=store,
        rank=rank,
        num_ranks=num_ranks,
        num_shards=num_shards,
        num_sequence=num_sequence,
        device=device,
        timeout=deadline,
        gather_once=gather_once,
        roll_call_s=roll_call_s,
    )


class RankGroup(Ranks):
    """See `Ranks`; made by join_ranks."""

    def __init__(
        self,
        *,
        store: TCPStore,
        rank: int,
        num_ranks: int,
        num_shards: int,
        num_sequence: int,
        device: torch.device,
        timeout: timedelta,
        gather_once: bool,
        roll_call_s: float,
    ) -> None:
        self._gather_once = gather_once
        self.rank, self.num_ranks, self.num_shards, self.num_sequence = rank, num_ranks, num_shards, num_sequence
        self._store, self._device, self._roll_call_s = store, device, roll_call_s
        self._hosts: Any = dist.new_group(backend="gloo", timeout=timeout)
        self._writers: Any = dist.new_group(list(range(num_shards)), backend="gloo", timeout=timeout)
        if num_sequence > 1:
            firsts = range(0, num_ranks, num_sequence)
            teams = [dist.new_group(list(range(first, first + num_sequence)), timeout=timeout) for first in firsts]
            self.exchange = TokenExchange(teams[self.team], rank=rank % num_sequence, num=num_sequence)
        self._mesh: DeviceMesh = (
            init_device_mesh(device.type, (num_ranks,), mesh_dim_names=("shard",))
            if num_shards == num_ranks
            else init_device_mesh(
                device.type, (num_ranks // num_shards, num_shards), mesh_dim_names=("replicate", "shard")
            )
        )

    def loads_on(self, device: torch.device) -> torch.device:
        # Block by block it goes to the GPU, and only this rank's rows stay there.
        return torch.device("cpu")

    def share_out(self, root: nn.Module, blocks: Sequence[nn.Module], *, compute_dtype: torch.dtype) -> None:
        # Blocks multiply in the compute dtype, so that is what is gathered; embeddings, the last norm and the head
        # stay fp32, as under autocast. Gradients are summed in fp32.
        narrow = compute_dtype != torch.float32
        policy = MixedPrecisionPolicy(
            param_dtype=compute_dtype if narrow else None,
            reduce_dtype=torch.float32 if narrow else None,
            cast_forward_inputs=False,
        )
        for block in blocks:
            fully_shard(block, mesh=self._mesh, mp_policy=policy, reshard_after_forward=not self._gather_once)
        fully_shard(root, mesh=self._mesh, mp_policy=MixedPrecisionPolicy(cast_forward_inputs=False))
        for module in root.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)
                module.set_force_sum_reduction_for_comms(True)

    def rest(self, root: nn.Module) -> None:
        for module in root.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def masters(self, model: nn.Module) -> Mapping[str, nn.Parameter]:
        return {
            name: nn.Parameter(_own(parameter.detach()), requires_grad=parameter.requires_grad)
            for name, parameter in model.named_parameters()
        }

    def rows(self, model: nn.Module) -> Mapping[str, Rows]:
        return {
            name: shard_rows(parameter.shape[0], shard=self.shard, num_shards=self.num_shards)
            for name, parameter in model.named_parameters()
        }

    def collect_gradients(self, model: nn.Module, masters: Mapping[str, nn.Parameter]) -> None:
        for name, parameter in model.named_parameters():
            if name in masters:
                masters[name].grad = None if parameter.grad is None else _own(parameter.grad)

    def norm(self, own: Tensor) -> Tensor:
        square = own.double().square()
        with self.named():
            dist.all_reduce(square, group=self._mesh["shard"].get_group())
        return square.sqrt().to(own.dtype)

    def gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.num_ranks
        with self.named():
            dist.all_gather_object(found, value, group=self._hosts)
        return found

    def from_first(self, make: Callable[[], T]) -> T:
        told: list[Any] = [None]
        raised: Exception | None = None
        if self.is_first:
            try:
                told = [(make(), None)]
            except Exception as error:
                raised = error
                told = [(None, _portable(error))]
        with self.named():
            dist.broadcast_object_list(told, src=0, group=self._hosts)
        value, told_error = told[0]
        if told_error is not None:
            raise raised or told_error
        made: T = value
        return made

    def whole(self, masters: Mapping[str, nn.Parameter], rows: Mapping[str, Rows]) -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        if not self.is_writer:
            return found
        for name, master in masters.items():
            num = rows[name].num
            size = -(-num // self.num_shards)
            part = torch.zeros(size, *master.shape[1:], dtype=master.dtype)
            part[: len(master)] = master.detach()
            parts = [torch.empty_like(part) for _ in range(self.num_shards)] if self.is_first else None
            with self.named():
                dist.gather(part, parts, dst=0, group=self._writers)
            if parts is not None:
                found[name] = torch.cat(parts)[:num]
        return found

    @contextmanager
    def named(self) -> Iterator[None]:
        try:
            yield
        except RondoError:
            raise
        except RuntimeError as error:
            text = str(error).lower()
            if not isinstance(error, dist.DistError) and not any(word in text for word in _TRANSPORT):
                raise
            raise InfraError(f"{self._lost()} ({_line(error)})") from error

    def _lost(self) -> str:
        """Who did not answer, by a roll call of those whose connection broke or whose patience ended."""
        mine = f"rank {self.rank} of {self.num_ranks}"
        try:
            self._store.set(f"here/{self.rank}", "")
            deadline = time.monotonic() + self._roll_call_s
            absent = set(range(self.num_ranks)) - {self.rank}
            while absent and time.monotonic() < deadline:
                absent = {rank for rank in absent if not self._store.check([f"here/{rank}"])}
                time.sleep(0.05)
        except RuntimeError:
            return f"rank 0 of {self.num_ranks}, where the ranks meet, was lost while {mine} waited for it"
        if not absent:
            return f"the ranks lost their connections, though all {self.num_ranks} are there"
        names = ", ".join(f"rank {rank}" for rank in sorted(absent))
        return f"{names} of {self.num_ranks} died or no longer answers; {mine} waited in vain"


def _own(tensor: Tensor) -> Tensor:
    local: Tensor = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    return local


def _portable(error: Exception) -> Exception:
    if isinstance(error, RondoError):
        try:
            pickle.dumps(error)
            return error
        except (pickle.PickleError, TypeError, AttributeError):
            pass
    return InfraError(f"the first rank failed: {type(error).__name__}: {_line(error)}")


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
