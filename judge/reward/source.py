"""A sequence classifier's files: found, named by their hash, and refused where the head is the wrong one.

Light on purpose: whatever can be refused from config.json is refused without loading torch.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from judge.reward.config import PreferenceModelBackend, RewardModelBackend
from rollout.errors import UsageError
from rollout.shards import hash_file, hash_json

ModelBackend = RewardModelBackend | PreferenceModelBackend
Logits = list[float]

_WEIGHTS = (".safetensors", ".bin")
_TOKENIZER = (".json", ".jinja", ".model", ".txt", ".tiktoken")
_ARCHITECTURE = "ForSequenceClassification"
_DEFAULT_NUM_LABELS = 2  # what transformers assumes where config.json does not say


def endpoint_of(config: ModelBackend) -> str | None:
    """The pooling server's base URL, where scores come from one."""
    return config.endpoint if isinstance(config, RewardModelBackend) else None


def tokenizer_of(config: ModelBackend) -> str:
    """Folder or hub name of the tokenizer."""
    return (config.tokenizer if isinstance(config, RewardModelBackend) else None) or config.model


def find_folder(name: str, *, weights: bool = True) -> Path:
    """The folder of a model, downloaded where it is a hub name; without weights only what tokenises and describes it.

    Raises UsageError where it is neither.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise UsageError(f"judge.model {name} is not a folder; give a Hugging Face folder or a hub name")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = [f"*{suffix}" for suffix in (*_TOKENIZER, *(_WEIGHTS if weights else ()))]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UsageError(
            f"judge.model {name} is neither a folder nor a model that could be downloaded ({type(error).__name__}); "
            "check the name, the network and HF_TOKEN, or give a folder"
        ) from error


def check_folder(folder: Path, config: ModelBackend) -> None:
    """Raise UsageError unless config.json is that of a sequence classifier with the label that is to be read."""
    described = read_config(folder)
    architectures = described.get("architectures") or []
    if not any(_ARCHITECTURE in name for name in architectures):
        raise UsageError(
            f"judge.model {folder} is {', '.join(architectures) or 'of no stated architecture'}, expected a sequence "
            "classifier (...ForSequenceClassification): another model has no trained head; "
            "`rondo reward-model fit` makes a classifier of a policy"
        )
    if described.get("is_encoder_decoder"):
        raise UsageError(f"judge.model {folder} is an encoder-decoder, expected an encoder or a decoder")
    check_label(num_labels(described), config.label, str(folder))


def check_label(num_labels: int, label: int | None, name: str) -> None:
    """Raise UsageError unless it is clear which of the head's labels is the score."""
    if label is None and num_labels != 1:
        raise UsageError(
            f"judge.model {name} has a head with {num_labels} labels, expected 1; "
            "say which label is the score with judge.label, or choose a model with one"
        )
    if label is not None and label >= num_labels:
        raise UsageError(
            f"judge.label is {label}, but the head of judge.model {name} has labels 0 to {num_labels - 1}; "
            "give one of these"
        )


def read_config(folder: Path) -> Mapping[str, Any]:
    """The model's config.json. Raises UsageError where there is none."""
    path = folder / "config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read ({error}); give a folder made by save_pretrained()") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path} holds a {type(found).__name__}, expected an object; copy it from the model again")
    return found


def num_labels(described: Mapping[str, Any]) -> int:
    """How many labels the head of a model with this config.json has."""
    labels = described.get("id2label")
    return len(labels) if labels else int(described.get("num_labels") or _DEFAULT_NUM_LABELS)


def name_judge(config: ModelBackend) -> str:
    """`<kind>:<model>@<hash>`: other weights, another tokenizer, or settings that change scores are another judge.

    A pooling server's weights cannot be seen: there the hash covers its model's name, and the tokenizer.
    """
    # A folder is known by its content: the same model elsewhere is the same judge.
    named = set() if Path(config.model).is_dir() else {"model"}
    settings = config.model_dump(include={"dtype", "label", "max_length", "template"} | named)
    served = endpoint_of(config) is not None
    folders = {find_folder(tokenizer_of(config), weights=False)}
    if not served or Path(config.model).is_dir():
        folders.add(find_folder(config.model))
    hashes = sorted(hash_json({path.name: hash_file(path) for path in _files(folder)}) for folder in folders)
    return f"{config.kind}:{Path(config.model).name}@{hash_json([settings, hashes, served])[:8]}"


def _files(folder: Path) -> list[Path]:
    """Weights, configuration and tokenizer, but not the reports that lie beside them."""
    ignored = {"reward_model.json", "trainer_state.json"}
    return sorted(
        path for path in folder.iterdir() if path.suffix in (*_WEIGHTS, *_TOKENIZER) and path.name not in ignored
    )
