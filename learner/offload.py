"""What a learner lets go of while others compute on its GPU; pinned host memory holds it meanwhile."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from learner.trainer import Trainer

Move = Callable[[Tensor], Tensor]


class Offload:
    """Moves a trainer's state away from its device and back, bit for bit; nothing moves where the device is a CPU.

    what: learner.offload. to_host and to_device stand in for the copies, for tests.
    """

    def __init__(self, what: str, *, device: torch.device, to_host: Move | None = None, to_device: Move | None = None):
        self.device = device
        self.is_released = False
        self._what = what if device.type != "cpu" or to_host is not None else "none"
        self._to_host = to_host or _pinned
        self._to_device = to_device or (lambda tensor: tensor.to(device, non_blocking=True))

    def release(self, trainer: Trainer) -> None:
        """Move moments, and with `all` weights and a moving reference, to the host; drop gradients. Idempotent."""
        if self._what == "none" or self.is_released:
            return
        trainer.optimizer.zero_grad(set_to_none=True)
        self._move(trainer, self._to_host)
        self.is_released = True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def acquire(self, trainer: Trainer) -> None:
        """Bring everything back to the device. Idempotent."""
        if self.is_released:
            self._move(trainer, self._to_device)
            self.is_released = False

    def _move(self, trainer: Trainer, move: Move) -> None:
        # One tensor may stand in several places: it moves once.
        moved: dict[int, tuple[Tensor, Tensor]] = {}

        def once(tensor: Tensor) -> Tensor:
            if id(tensor) not in moved:
                moved[id(tensor)] = (tensor, move(tensor))
            return moved[id(tensor)][1]

        for state in trainer.optimizer.state.values():
            # The count of steps is a number that AdamW may keep on the host anyway.
            state.update({key: once(value) for key, value in state.items() if _is_array(value)})
        for parameter in self._weights(trainer):
            parameter.data = once(parameter.data)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _weights(self, trainer: Trainer) -> Iterator[torch.nn.Parameter]:
        if self._what == "all":
            yield from trainer.model.parameters()
            if trainer.moving is not None:
                yield from trainer.moving.model.parameters()


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _pinned(tensor: Tensor) -> Tensor:
    host = torch.empty_like(tensor, device="cpu", pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
