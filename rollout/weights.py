"""The weight files of a policy folder, looked at without loading them."""

import json
from collections.abc import Iterable
from pathlib import Path

from safetensors import SafetensorError, safe_open

from rollout.errors import IntegrityError


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a policy. Raises IntegrityError if there is none."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise IntegrityError(f"{folder} holds no *.safetensors; a policy is a Hugging Face folder with such weights")
    return files


def weights_size_bytes(folder: Path) -> int:
    """Bytes of all weight files."""
    return sum(file.stat().st_size for file in weight_files(folder))


def weight_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor, read from the headers. Raises IntegrityError on a file that is cut off.

    A tied output matrix is the embedding under another name: some writers store it, some do not, so it is left out.
    """
    return tied_away(file_shapes(weight_files(folder)), folder)


def file_shapes(files: Iterable[Path]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of some weight files. Raises IntegrityError on a file that is cut off."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            with safe_open(path, framework="np") as file:
                shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise IntegrityError(f"{path} is not a whole safetensors file: {error}") from error
    return shapes


def tied_away(shapes: dict[str, tuple[int, ...]], folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes without that of an output matrix which the folder's configuration says is tied to the embedding."""
    tied = json.loads((folder / "config.json").read_text()).get("tie_word_embeddings", False)
    return {name: shape for name, shape in shapes.items() if not (tied and name == "lm_head.weight")}


def linear_layers(folder: Path) -> set[str]:
    """Last parts of the names of matrices; embeddings and the output head are those as high as the vocabulary."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    sizes = {part.get("vocab_size") for part in (config, config.get("text_config", {}))}
    return {
        name.split(".")[-2]
        for name, shape in weight_shapes(folder).items()
        if name.endswith(".weight") and name.count(".") and len(shape) == 2 and shape[0] not in sizes
    }


def refuse_other_weights(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]], folder: Path) -> None:
    """Raise IntegrityError unless the tensors have just the names and shapes that the engine was started with."""
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise IntegrityError(
            f"{folder} cannot replace the engine's weights: {len(wrong)} tensors differ, for instance {name} has "
            f"shape {found.get(name, 'none (it is missing)')}, expected {expected.get(name, 'none (it is new)')}; "
            "publish the whole model with the architecture of the base policy"
        )
