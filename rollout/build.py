"""A rollout worker made from settings: which engine, which encoder, how long a prompt may be."""

from pathlib import Path
from typing import Any

from rollout.adapter import base_folder
from rollout.config import RolloutConfig
from rollout.encoder import PromptEncoder
from rollout.engine import Engine, context_tokens
from rollout.reference_engine import ReferenceEngine
from rollout.vllm_engine import VllmEngine
from rollout.worker import RolloutWorker


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
    engine: Engine
    if settings.engine == "vllm":
        engine = VllmEngine(settings=settings, stop_ids=encoder.stop_ids, dtype=dtype, seed=seed, index=index)
    else:
        engine = ReferenceEngine(settings=settings, stop_ids=encoder.stop_ids, dtype=dtype, seed=seed)
    return RolloutWorker(engine=engine, encoder=encoder, run_dir=run_dir, settings=settings)
