"""The base policy: version 0 of every run, linked from where it lies or made before round 0."""

import os
import shutil
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from orchestrator.config import PolicyConfig
from rollout.errors import IntegrityError, UsageError
from rollout.shards import hash_policy, publish, read_json, temporary_beside, write_json
from rollout.types import PolicyRef

BASE_PATH = "policies/v0000"
BASE_MANIFEST = "policies/v0000.json"
_KEEP = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def find_policy(config: PolicyConfig) -> Path | None:
    """The folder of `policy.path`, downloaded where it is a hub name; None for a policy made from nothing.

    Raises UsageError where it is no folder, cannot be downloaded, or lacks its configuration or weights.
    """
    if config.path is None:
        return None
    folder = Path(config.path)
    if not folder.is_dir():
        if folder.is_absolute() or config.path.startswith(".") or config.path.count("/") > 1:
            raise UsageError(f"policy.path {config.path} is not a folder; give a Hugging Face folder or a hub name")
        try:
            folder = Path(snapshot_download(config.path, allow_patterns=list(_KEEP)))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise UsageError(
                f"policy.path {config.path} is neither a folder nor a model that could be downloaded "
                f"({type(error).__name__}); check the name, the network and HF_TOKEN, or give a folder"
            ) from error
    if not (folder / "config.json").exists() or not list(folder.glob("*.safetensors")):
        raise UsageError(
            f"policy.path {config.path} lacks config.json or *.safetensors; save the model there with save_pretrained()"
        )
    return folder


def existing_base(root: Path) -> PolicyRef | None:
    """The base of a run that has one already. Raises IntegrityError if its weights are not what they were."""
    base = existing_manifest(root)
    if base is None:
        return None
    found = hash_policy(root / base.path)
    if found != base.sha256:
        raise IntegrityError(
            f"{root / base.path} has sha256 {found[:12]}, expected {base.sha256[:12]}: the base policy was changed "
            "after this run began; put it back, or start a new run"
        )
    return base


def existing_manifest(root: Path) -> PolicyRef | None:
    """The base as it was committed, without a look at its weights; None where there is none yet."""
    return read_json(root / BASE_MANIFEST, PolicyRef) if (root / BASE_MANIFEST).exists() else None


def link_base(root: Path, folder: Path) -> PolicyRef:
    """Make the base of a run out of links to a policy that exists: no copy of its weights."""
    target = root / BASE_PATH
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(target)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    for pattern in _KEEP:
        for file in folder.glob(pattern):
            os.symlink(file.resolve(), temporary / file.name)
    publish(temporary, target)
    return record_base(root, PolicyRef(version=0, path=BASE_PATH, sha256=hash_policy(target)))


def record_base(root: Path, base: PolicyRef) -> PolicyRef:
    """Commit the base policy; from here on the run has it."""
    write_json(root / BASE_MANIFEST, base, PolicyRef)
    return base
