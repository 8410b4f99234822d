"""What can be refused of the learner's settings before anything expensive starts; loads neither torch nor peft."""

import importlib.util
from collections.abc import Iterable
from pathlib import Path

from learner.config import LearnerConfig
from rollout.errors import UsageError
from rollout.shards import linear_layers


def check_learner(settings: LearnerConfig, policy: Path) -> None:
    """Raise UsageError where `learner.lora` does not fit the base policy in this folder, or needs what is missing."""
    lora = settings.lora
    if lora is None:
        return
    if lora.quantize is not None and importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(
            "learner.lora.quantize: nf4 needs bitsandbytes, which is not installed; install it, or leave it out"
        )
    if lora.targets != "all-linear":
        refuse_other_targets(lora.targets, known=linear_layers(policy))


def refuse_other_targets(targets: Iterable[str], *, known: Iterable[str]) -> None:
    """Raise UsageError where a target is the name of no layer that can have an adapter. known: last parts of names."""
    unknown = [target for target in targets if target.rsplit(".", maxsplit=1)[-1] not in set(known)]
    if unknown:
        raise UsageError(
            f"learner.lora.targets: {unknown[0]} is no linear layer of the policy, expected all-linear or some of "
            f"{', '.join(sorted(set(known)))} (embeddings and the output head take no adapter)"
        )
