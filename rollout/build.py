"""A rollout worker made from settings: which engine, which encoder, how long a prompt may be."""

import importlib
import os
import sys
from pathlib import Path
from typing import Any

from rollout.adapter import base_folder
from rollout.config import RolloutConfig
from rollout.encoder import PromptEncoder
from rollout.engine import Engine, context_tokens
from rollout.errors import UsageError
from rollout.worker import RolloutWorker

_OURS = {"vllm": "rollout.vllm_engine:VllmEngine", "transformers": "rollout.reference_engine:ReferenceEngine"}


def build_worker(
    folder: Path, *, index: int, settings: RolloutConfig, run_dir: Path, dtype: str, seed: int, **encoding: Any
) -> RolloutWorker:
    """The worker number `index` for the policy in `folder`, not started yet.

    encoding: the arguments of PromptEncoder other than path and max_prompt_tokens. A prompt must leave room for
    settings.max_new_tokens, or it is rejected rather than answered with less.
    """
    folder = base_folder(folder)
    room = context_tokens(folder, settings.max_model_len) - settings.max_new_tokens
    encoder = PromptEncoder(path=folder, max_prompt_tokens=max(1, room), **encoding)
    make = engine_class(settings.engine)
    engine: Engine = make(settings=settings, stop_ids=encoder.stop_ids, dtype=dtype, seed=seed, index=index)
    return RolloutWorker(engine=engine, encoder=encoder, run_dir=run_dir, settings=settings)


def engine_class(name: str) -> Any:
    """The class that `rollout.engine` names: one of ours, or module:Class. Raises UsageError if there is none.

    It is made as VllmEngine is, keeps the contract of `rollout.engine.Engine`, and has a static warm().
    """
    module_name, _, class_name = _OURS.get(name, name).partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError) as error:
        raise UsageError(
            f"rollout.engine {name} cannot be imported: {error}; expected vllm, transformers, or module:Class of an "
            "engine that can be imported from the folder that the run was started in"
        ) from error
