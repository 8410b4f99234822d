"""What a fork asks of the learner: whether a state is whole, and a new one where a policy's own is gone."""

from pathlib import Path

import torch

from learner.adaptive import ObjectiveState
from learner.config import LearnerConfig
from learner.model import load_model
from learner.optimizers import build_optimizer
from learner.ranks import Ranks
from learner.state import read_state_manifest
from learner.state_writing import save_state
from rollout.errors import UsageError
from rollout.types import PolicyRef


def check_state(folder: Path, *, version: int) -> None:
    """Raise IntegrityError, naming the file, where the state of a policy is not what was committed."""
    read_state_manifest(folder, version=version)


def begin_state(
    folder: Path, *, policy: PolicyRef, policy_folder: Path, settings: LearnerConfig, num_steps: int, seed: int
) -> None:
    """Write a state for a published policy whose own is gone: its weights as fp32 masters, no moments, a new seed.

    num_steps: optimizer steps behind the policy. What rounding took from the masters is lost, and a moving reference
    begins at the base again. Raises UsageError for an adapter, whose matrices a merged policy no longer holds.
    """
    if policy.kind == "adapter" or settings.lora is not None:
        raise UsageError(
            f"the learner's state of policy v{policy.version} is gone, and that of an adapter cannot be made from a "
            "published policy; fork a round whose state is kept, or start a run from the policy"
        )
    model = load_model(policy_folder, device=torch.device("cpu"))
    parameters = Ranks().masters(model)
    save_state(
        folder,
        version=policy.version,
        num_steps=num_steps,
        parameters=parameters,
        optimizer=build_optimizer(list(parameters.values()), settings),
        random_states={"cpu": torch.Generator().manual_seed(seed).get_state()},
        objective=ObjectiveState(),
    )
