"""Everything that can be refused before anything expensive starts, each in one line."""

import importlib.util
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from judge.check import check_judge
from judge.config import people_of
from learner.check import check_learner
from orchestrator.base import find_policy
from orchestrator.canaries import check_canaries
from orchestrator.config import RunConfig
from orchestrator.given import LabelledPair, read_labels
from orchestrator.telemetry.trackers import check_tracking
from orchestrator.telemetry.webhooks import webhook_urls
from rollout.encoder import PromptEncoder
from rollout.errors import DataError, UsageError
from rollout.prompts import refuse_overlap
from rollout.sources import load_prompts
from rollout.types import Prompt

OUR_PACKAGES = ("rollout", "judge", "learner", "orchestrator")


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a run starts from. unusable counts rows of the prompt files by reason, num_unusable_canaries those of
    the canary file, ties among them. gold are known pairs for people who judge.
    """

    prompts: tuple[Prompt, ...]
    held_out: tuple[Prompt, ...]
    policy_folder: Path | None
    unusable: dict[str, int]
    num_unusable_canaries: int = 0
    gold: tuple[LabelledPair, ...] = ()
    num_unusable_gold: int = 0


def check_inputs(config: RunConfig, *, directory: Path | None = None) -> Inputs:
    """Load prompts and look at the policy and the judge. Raises UsageError in one line for whatever is wrong."""
    refuse_shadows(directory or Path.cwd())
    check_tracking(config.tracking)
    webhook_urls(config.notify)
    check_judge(config.judge)
    num_unusable = check_canaries(config.judge.canaries) if config.judge.canaries else 0
    people = people_of(config.judge)
    gold, unusable_gold = read_labels(people.gold.path) if people and people.gold else ((), Counter[str]())
    if config.evaluation.gold is not None:
        check_judge(config.evaluation.gold)
    folder = find_policy(config.policy)
    loaded = load_prompts(config.prompts.path, split=config.prompts.split, column=config.prompts.column)
    if config.prompts.num_per_round > len(loaded.prompts):
        raise UsageError(
            f"prompts.num_per_round is {config.prompts.num_per_round}, but {config.prompts.path} has "
            f"{len(loaded.prompts)} usable prompts; lower it, or add prompts"
        )
    held_out: tuple[Prompt, ...] = ()
    evaluation = config.evaluation
    if evaluation.prompts:
        held_out = load_prompts(evaluation.prompts, split=evaluation.split, column=evaluation.column).prompts
        held_out = held_out[: evaluation.num_prompts]
        refuse_overlap(loaded.prompts, held_out)
    if folder is not None:
        check_learner(config.learner, folder)
        check_encoder(config, folder, loaded.prompts)
    return Inputs(
        prompts=loaded.prompts,
        held_out=held_out,
        policy_folder=folder,
        unusable=dict(loaded.rejected),
        num_unusable_canaries=num_unusable,
        gold=tuple(gold),
        num_unusable_gold=sum(unusable_gold.values()),
    )


def check_encoder(config: RunConfig, folder: Path, prompts: tuple[Prompt, ...]) -> None:
    """The folder must have a tokenizer and a chat template, and at least one prompt must fit its context."""
    encoder = make_encoder(config, folder)
    for prompt in prompts:
        try:
            encoder.encode(prompt)
        except DataError as error:
            last = error
        else:
            return
    raise UsageError(
        f"none of the {len(prompts)} prompts of {config.prompts.path} can be used (the last: {last}); "
        "give shorter prompts, or raise rollout.max_model_len as far as the policy's context allows"
    )


def make_encoder(config: RunConfig, folder: Path, *, frozen_date: str | None = None) -> PromptEncoder:
    """The encoder of this run's policy; a prompt must leave room for an answer."""
    room = min((n for n in (config.rollout.max_model_len, _context(folder)) if n is not None), default=None)
    return PromptEncoder(
        path=folder,
        chat_template=config.policy.chat_template,
        chat_template_kwargs=config.policy.chat_template_kwargs,
        system_prompt=config.policy.system_prompt,
        max_prompt_tokens=None if room is None else max(1, room - config.rollout.max_new_tokens),
        frozen_date=frozen_date,
    )


def refuse_shadows(directory: Path) -> None:
    """A user's own judge.py beside the configuration would be imported instead of our package, in some process."""
    for name in OUR_PACKAGES:
        spec = importlib.util.find_spec(name)
        ours = Path(os.path.realpath(spec.origin)).parent if spec and spec.origin else None
        for candidate in (directory / f"{name}.py", directory / name / "__init__.py"):
            folder = Path(os.path.realpath(candidate)).parent
            if candidate.exists() and (candidate.name != "__init__.py" or folder != ours):
                raise UsageError(
                    f"{candidate} shadows Rondo's package `{name}`; rename it (for instance my_{name}.py) and "
                    "the import path in the configuration"
                )


def _context(folder: Path) -> int | None:
    """Positions of the model, read without loading transformers' models; None where config.json does not say."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    context = config.get("text_config", config).get("max_position_embeddings")
    # One position less than the model has, as engines need the one after the last token to score it.
    return None if context is None else int(context) - 1
