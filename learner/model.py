"""Loading a policy for learning, and deciding where and in which precision it computes."""

from pathlib import Path
from typing import cast

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from learner.batches import pad
from learner.config import LearnerConfig
from learner.logps import completion_logps, probe_tolerance
from rollout.errors import UsageError
from rollout.shards import base_folder
from rollout.types import TokenSequence

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(path: Path, *, device: torch.device, dtype: torch.dtype | None = torch.float32) -> PreTrainedModel:
    """Load a causal language model's folder without dropout; dtype None keeps the files' own.

    An adapter is merged into its base, in float32 where dtype is None. Raises UsageError where the folder holds no
    such model.
    """
    base = base_folder(path)
    if base != path:
        return merge_adapter(load_model(base, device=device, dtype=dtype or torch.float32), path)
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype or "auto", trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{path} is no causal language model that can be loaded: {reason}") from error
    # No dropout: policy and reference are compared on equal terms.
    return cast(PreTrainedModel, model.to(device).eval())


def merge_adapter(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The base with the adapter of a folder added to its weights."""
    from peft import PeftModel

    return cast(PreTrainedModel, PeftModel.from_pretrained(model, adapter).merge_and_unload())


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Raise UsageError where the model scales or caps its logits after the head, which is not supported."""
    num = min(8, model.get_input_embeddings().weight.shape[0])
    ids = torch.arange(num, device=model.device)[None]
    own_TV = torch.log_softmax(model(input_ids=ids).logits[0].float(), dim=-1)
    own_T = own_TV[:-1].gather(1, ids[0, 1:, None])[:, 0]
    row = ids[0].to(torch.int32).cpu().numpy()
    batch = pad([TokenSequence(prompt_ids=row[:1], completion_ids=row[1:])]).to(model.device)
    difference = (completion_logps(model, batch)[0, 1:] - own_T).abs().max().item()
    if not difference < probe_tolerance(model):
        raise UsageError(
            f"{type(model).__name__} changes its logits after its output head (log-probabilities differ by "
            f"{difference:.3g}, expected 0), which the learner does not support; choose another policy"
        )


def context_length(model: PreTrainedModel) -> int | None:
    """Tokens that the model can attend to, or None where its configuration does not say."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def named_dtype(name: str) -> torch.dtype:
    if name not in _DTYPES:
        raise UsageError(f"dtype {name!r} is unknown, expected one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def choose_device(settings: LearnerConfig) -> torch.device:
    available = torch.cuda.is_available()
    if settings.device == "cuda" and not available:
        raise UsageError("learner.device is cuda but torch sees no GPU; use auto, or reserve one with learner.gpus")
    return torch.device("cuda" if available and settings.device != "cpu" else "cpu")


def choose_compute_dtype(settings: LearnerConfig, device: torch.device) -> torch.dtype:
    """The dtype of matrix products; auto is bfloat16 only where the hardware multiplies it: elsewhere it crawls."""
    if settings.compute_dtype != "auto":
        return named_dtype(settings.compute_dtype)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    fast = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32
