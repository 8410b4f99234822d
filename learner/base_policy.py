"""The base policy of a run that makes its own: from nothing, by supervised fine-tuning, or both."""

import shutil
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from learner.base_config import ScratchConfig, SftConfig
from learner.config import LearnerConfig
from learner.demonstrations import ChatFormat, encode_all, load_demonstrations, texts
from learner.model import choose_compute_dtype, choose_device, context_length, load_model, named_dtype
from learner.scratch import random_model, train_tokenizer
from learner.sft import fine_tune
from learner.state_writing import sync_files
from learner.types import StepMetrics
from rollout.errors import UsageError
from rollout.shards import hash_policy, publish, temporary_beside
from rollout.types import PolicyRef, TokenSequence


@dataclass(frozen=True, kw_only=True)
class BaseRecipe:
    """What the base is made of: the folder `source` or `scratch`, then `sft` where there is one.

    The other fields are those of the configuration's `policy:` section.
    """

    source: Path | None
    scratch: ScratchConfig | None
    sft: SftConfig | None
    dtype: str
    chat_template: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    system_prompt: str | None = None
    frozen_date: str | None = None


def make_base(
    recipe: BaseRecipe, *, run_dir: Path, path: str, learner: LearnerConfig, seed: int
) -> Generator[StepMetrics, None, PolicyRef]:
    """Write the base policy to run_dir/path, all of it or nothing; yields the steps of supervised fine-tuning,
    whose values also count the demonstrations that could not be used, by reason.

    The folder holds safetensors in recipe.dtype, tokenizer, chat template and a generation config with the end of
    sequence. From `learner` come device, precision and memory bounds, so that this machine's figures stand in one
    place. Raises UsageError where the recipe or the demonstrations cannot be used.
    """
    if learner.num_threads is not None:
        torch.set_num_threads(learner.num_threads)
    device = choose_device(learner)
    tokenizer, model = _start(recipe, device=device, seed=seed)
    if recipe.chat_template is not None:
        # As in rollout: a template has braces, the path of a file that holds one has none.
        given = recipe.chat_template
        tokenizer.chat_template = given if "{" in given else Path(given).read_text(encoding="utf-8")
    if recipe.sft is not None:
        sequences, rejected = _sequences(recipe, recipe.sft, tokenizer, context=context_length(model))
        for step in fine_tune(
            model,
            sequences,
            settings=recipe.sft,
            seed=seed,
            max_tokens_per_microbatch=learner.max_tokens_per_microbatch,
            compute_dtype=choose_compute_dtype(learner, device),
        ):
            yield replace(step, values={**step.values, **rejected})
    return _save(model, tokenizer, run_dir=run_dir, path=path, dtype=recipe.dtype)


def _start(recipe: BaseRecipe, *, device: torch.device, seed: int) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    if recipe.scratch is None:
        if recipe.source is None:
            raise UsageError("the base policy has no origin; give policy.path or policy.scratch")
        tokenizer = AutoTokenizer.from_pretrained(recipe.source, trust_remote_code=False)
        return tokenizer, load_model(recipe.source, device=device)
    scratch = recipe.scratch
    corpus, split = scratch.corpus, "train"
    if corpus is None and recipe.sft is not None:
        corpus, split = recipe.sft.demonstrations, recipe.sft.split
    known = [] if corpus is None else load_demonstrations(corpus, split=split)
    made = train_tokenizer(texts(known), vocabulary_size=scratch.vocabulary_size, context_length=scratch.context_length)
    return made, cast(PreTrainedModel, random_model(made, scratch, seed=seed).to(device))


def _sequences(
    recipe: BaseRecipe, sft: SftConfig, tokenizer: PreTrainedTokenizerBase, *, context: int | None
) -> tuple[Sequence[TokenSequence], dict[str, float]]:
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        missing = "chat template" if tokenizer.chat_template is None else "end-of-sequence token"
        raise UsageError(f"the tokenizer of {recipe.source} has no {missing}, which policy.sft needs; give one")
    chat = ChatFormat(
        tokenizer=tokenizer,
        chat_template_kwargs=recipe.chat_template_kwargs,
        system_prompt=recipe.system_prompt,
        frozen_date=recipe.frozen_date,
    )
    limit = min((length for length in (sft.max_length, context) if length is not None), default=None)
    found = load_demonstrations(sft.demonstrations, split=sft.split)
    usable, rejected = encode_all(found, chat, max_length=limit)
    if not usable:
        counts = ", ".join(f"{reason} {count}" for reason, count in sorted(rejected.items()))
        raise UsageError(f"{sft.demonstrations} has no demonstration that can be used: {counts}")
    return usable, {f"num_{reason}": float(count) for reason, count in rejected.items()}


def _save(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, run_dir: Path, path: str, dtype: str
) -> PolicyRef:
    final = run_dir / path
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(final)
    shutil.rmtree(temporary, ignore_errors=True)
    stops = model.generation_config.eos_token_id
    known = stops if isinstance(stops, list) else [stops]
    # Only what stops an answer: how answers are sampled is the run's business, not the folder's.
    model.generation_config = GenerationConfig(
        eos_token_id=sorted({*known, tokenizer.eos_token_id} - {None}), pad_token_id=tokenizer.pad_token_id
    )
    model.to("cpu", named_dtype(dtype)).save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    sync_files(temporary)
    sha256 = hash_policy(temporary)
    publish(temporary, final)
    return PolicyRef(version=0, path=path, sha256=sha256)
