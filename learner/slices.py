"""Named tensors in files that hold some rows of each, written by as many ranks and read by any number of others."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import safe_open
from torch import Tensor

from learner.ranks import Rows
from rollout.errors import IntegrityError

# What one slice holds: the rows [start, stop) of each parameter.
Held = Mapping[str, tuple[int, int]]


def slice_file(file: str, index: int, num: int) -> str:
    """The name of one of num files that hold `file` together; one alone has the name itself."""
    stem, suffix = file.rsplit(".", maxsplit=1)
    return file if num == 1 else f"{stem}-{index:05d}-of-{num:05d}.{suffix}"


class SlicedTensors:
    """Opens the files of one kind in a state. slices: what each of them holds; none where one file holds all.

    A tensor is named by its parameter, or PARAMETER/KEY where it is an optimizer's; it then has the parameter's rows.
    """

    def __init__(self, folder: Path, file: str, slices: Sequence[Held]) -> None:
        self._slices = slices
        names = [slice_file(file, i, len(slices)) for i in range(len(slices))] if slices else [file]
        self._paths = [folder / name for name in names]
        self._files: list[Any] = [safe_open(path, framework="pt") for path in self._paths]

    def __enter__(self) -> Self:
        for file in self._files:
            file.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._files:
            file.__exit__(kind, error, trace)

    @property
    def names(self) -> list[str]:
        """Tensors that any file holds, in their order."""
        return sorted({name for file in self._files for name in file.keys()})  # noqa: SIM118

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The whole shape of each parameter."""
        shapes = {}
        for name in self.names:
            shape = tuple(self._files[0].get_slice(name).get_shape())
            if self._slices and shape:
                shape = (max(held[_parameter(name)][1] for held in self._slices), *shape[1:])
            shapes[name] = shape
        return shapes

    def read(self, name: str, rows: Rows | None = None) -> Tensor:
        """These rows of a tensor, by default all, without reading others. A tensor without rows is read whole.

        Raises IntegrityError where a tensor that is no rows (quantised moments, say) was written by other ranks.
        """
        parameter = _parameter(name)
        if not self._slices:
            saved = self._files[0].get_slice(name)
            shape = saved.get_shape()
            if rows is None or (rows.start, rows.stop) == (0, rows.num) or not shape:
                whole: Tensor = self._files[0].get_tensor(name)
                return whole
            if shape[0] != rows.num:
                raise self._unsplittable(self._paths[0], name)
            some: Tensor = saved[rows.start : rows.stop]
            return some
        held = [one[parameter] for one in self._slices]
        wanted = (0, max(stop for _, stop in held)) if rows is None else (rows.start, rows.stop)
        has_rows = bool(self._files[0].get_slice(name).get_shape())
        if wanted in held or not has_rows:
            tensor: Tensor = self._files[held.index(wanted) if has_rows else 0].get_tensor(name)
            return tensor
        parts = []
        for (first, last), file, path in zip(held, self._files, self._paths, strict=True):
            saved = file.get_slice(name)
            if saved.get_shape()[0] != last - first:
                raise self._unsplittable(path, name)
            low, high = max(wanted[0], first), min(wanted[1], last)
            if low < high:
                parts.append(saved[low - first : high - first])
        return torch.cat(parts) if parts else self._files[0].get_tensor(name)[:0]

    def _unsplittable(self, path: Path, name: str) -> IntegrityError:
        return IntegrityError(
            f"{path} holds {name} in a form that cannot be shared out anew; resume with {max(1, len(self._slices))} "
            "ranks that hold a model together, as it was written"
        )


def _parameter(name: str) -> str:
    return name.split("/", maxsplit=1)[0]
