"""From a policy's folder to a classifier that can be trained, and back to a folder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from learner.base_config import ScratchConfig
from learner.config import LearnerConfig
from learner.model import choose_compute_dtype, choose_device, context_length
from learner.reward_config import RewardModelConfig
from learner.scratch import random_model, train_tokenizer
from rollout.errors import UsageError
from rollout.shards import hash_policy

_PAD = "<|pad|>"


@dataclass(frozen=True, kw_only=True, eq=False)
class Start:
    """A classifier to be trained: its linear head is `score`, its padding id is no end of sequence."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    max_length: int | None
    compute_dtype: torch.dtype


def open_start(source: Path, settings: RewardModelConfig) -> Start:
    """The policy's body under a head with one label: its own where it has one, else a new one of the seed.

    The new head's weights have variance 1 / (width + 1) (Stiennon et al. 2020, 2009.01325, appendix B.1).
    """
    learner = as_learner(settings)
    if settings.num_threads is not None:
        torch.set_num_threads(settings.num_threads)
    device = choose_device(learner)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                source, num_labels=1, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
            head = getattr(model, "score", None)
            if not isinstance(head, nn.Linear):
                raise ValueError(f"{type(model).__name__} has no linear `score` on a decoder")
            if loading["missing_keys"]:
                nn.init.normal_(head.weight, std=1 / math.sqrt(head.in_features + 1))
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{source} is no policy that a reward model can start from: {reason}") from error
    if missing := sorted(set(loading["missing_keys"]) - {"score.weight"}):
        raise UsageError(f"{source} lacks weights of {type(model).__name__}: {', '.join(missing[:3])}; copy it again")
    _give_padding(model, tokenizer)
    limit = min((each for each in (settings.max_length, context_length(model)) if each is not None), default=None)
    return Start(
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        max_length=limit,
        compute_dtype=choose_compute_dtype(learner, device),
    )


def _give_padding(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """A padding id of its own: readers that look for the last token by it stop at a shared end of sequence."""
    ends = model.config.eos_token_id
    taken = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in taken:
        tokenizer.add_special_tokens({"pad_token": _PAD})
        if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id


def as_learner(settings: RewardModelConfig) -> LearnerConfig:
    """What the learner's own functions read."""
    return LearnerConfig(
        learning_rate=settings.learning_rate,
        weight_decay=settings.weight_decay,
        adam_betas=settings.adam_betas,
        device=settings.device,
        compute_dtype=settings.compute_dtype,
    )


def save_classifier(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> str:
    """Write a folder that transformers and vLLM load as it is; the sha256 of its weights and config.json."""
    cast(Any, model).to("cpu").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return hash_policy(folder)


def make_random(folder: Path, scratch: ScratchConfig, *, texts: Sequence[str], seed: int = 0) -> None:
    """A reward model of random weights, for measurements that hang on shapes only."""
    tokenizer = train_tokenizer(texts, vocabulary_size=scratch.vocabulary_size, context_length=scratch.context_length)
    folder.mkdir(parents=True)
    random_model(tokenizer, scratch, seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    start = open_start(folder, RewardModelConfig(seed=seed))
    save_classifier(start.model, start.tokenizer, folder)
