"""The one configuration tree: each package owns its section, `RunConfig` composes them."""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import ValidationError, field_validator, model_validator

from judge.config import AnyBackend, JudgeConfig, people_of
from learner.base_config import ScratchConfig, SftConfig
from learner.config import LearnerConfig
from orchestrator.retention_config import RetentionConfig
from orchestrator.scoreboard.config import AlarmConfig, GateConfig
from orchestrator.telemetry.config import NotifyConfig, TrackingConfig
from orchestrator.types import Baseline
from rollout.config import PromptsConfig, RolloutConfig
from rollout.errors import UsageError
from rollout.types import Settings, setting

T = TypeVar("T")


class PolicyConfig(Settings):
    """The base policy, and all that turns messages into tokens."""

    path: str | None = setting(None, change="identity", doc="Hugging Face folder or hub name; none with `scratch`")
    dtype: Literal["float32", "bfloat16", "float16"] = setting(
        "bfloat16", change="identity", doc="type of the published weights and of the engine"
    )
    chat_template: str | None = setting(None, change="identity", doc="Jinja template, or a path to one")
    chat_template_kwargs: dict[str, Any] = setting({}, change="identity", doc="arguments of the chat template")
    system_prompt: str | None = setting(None, change="identity", doc="used only where a prompt has no system turn")
    scratch: ScratchConfig | None = setting(None, change="identity", doc="make the base from nothing")
    sft: SftConfig | None = setting(None, change="identity", doc="supervised fine-tuning before round 0")

    @model_validator(mode="after")
    def _one_origin(self) -> "PolicyConfig":
        if (self.path is None) == (self.scratch is None):
            raise ValueError("give either policy.path (a folder or hub name) or policy.scratch, not both or neither")
        return self


class EvaluationConfig(Settings):
    """What is measured after every round, on prompts that are never trained on."""

    prompts: str | None = setting(None, change="per_round", doc="held-out prompts; none: no evaluation")
    split: str = setting("train", change="per_round", doc="split of a dataset that has several")
    column: str | None = setting(None, change="per_round", doc="column that holds the prompts")
    num_prompts: int | None = setting(None, change="per_round", doc="use only the first so many", ge=1)
    num_completions: int = setting(1, change="per_round", doc="answers a prompt, each compared with one", ge=1)
    baseline: Baseline = setting("base", change="per_round", doc="the headline: what the policy is held against")
    compare_previous: bool = setting(True, change="per_round", doc="also against the policy that the round began with")
    gold: AnyBackend | None = setting(None, change="per_round", doc="a second judge that nobody trains on")
    alarm: AlarmConfig = setting(AlarmConfig(), change="per_round", doc="when over-optimisation is called")
    gate: GateConfig = setting(GateConfig(), change="per_round", doc="what promotes a round's policy")

    @field_validator("gold")
    @classmethod
    def _answers_at_once(cls, gold: AnyBackend | None) -> AnyBackend | None:
        if gold is not None and people_of(gold) is not None:
            raise ValueError("people are asked as judge, with judge.evaluate: true for held-out answers, not as gold")
        return gold


class ProbeConfig(Settings):
    """Engine and learner score the same tokens before each round's learning."""

    num_completions: int = setting(64, change="operational", doc="completions scored; 0 switches the probe off", ge=0)
    max_mean_difference: float = setting(
        0.1, change="operational", doc="nats a token; above it the run stops before it trains on nonsense", gt=0
    )


class ClusterConfig(Settings):
    """The Ray that is started where none is running; a running cluster is used as it is."""

    num_cpus: int | None = setting(None, change="operational", doc="logical CPUs of a local Ray", ge=1)
    object_store_mib: int = setting(128, change="operational", doc="object store of a local Ray", ge=80)
    dashboard: bool = setting(False, change="operational", doc="start the dashboard of a local Ray")
    lock_timeout_s: float = setting(
        60.0,
        change="operational",
        gt=0,
        allow_inf_nan=False,
        doc="a driver on another machine that gives no sign of life for so long is taken for dead",
    )
    metrics: bool | None = setting(
        None, change="operational", doc="Prometheus metrics through Ray; none: on a cluster or with the dashboard"
    )


class RunConfig(Settings):
    """Everything about a run."""

    seed: int = setting(17, change="identity", doc="seed of prompt order, sampling keys and learning", ge=0)
    num_rounds: int = setting(3, change="operational", doc="rounds in all; may grow on resume", ge=1)
    max_policy_lag: int = setting(
        0,
        change="per_round",
        doc="round r is sampled by the policy of round r - lag; from 1 on it is made while round r - 1 is learnt",
        ge=0,
    )
    policy: PolicyConfig = setting(change="identity", doc="the base policy")
    prompts: PromptsConfig = setting(change="per_round", doc="training prompts")
    rollout: RolloutConfig = setting(RolloutConfig(), change="per_round", doc="generation")
    judge: JudgeConfig = setting(change="per_round", doc="judging and pairing")
    learner: LearnerConfig = setting(LearnerConfig(), change="per_round", doc="learning")
    evaluation: EvaluationConfig = setting(EvaluationConfig(), change="per_round", doc="measuring")
    probe: ProbeConfig = setting(ProbeConfig(), change="operational", doc="engine against learner")
    cluster: ClusterConfig = setting(ClusterConfig(), change="operational", doc="Ray")
    retention: RetentionConfig = setting(RetentionConfig(), change="operational", doc="what is kept of old rounds")
    tracking: TrackingConfig = setting(TrackingConfig(), change="operational", doc="experiment trackers")
    notify: NotifyConfig = setting(NotifyConfig(), change="operational", doc="webhooks")
    logging: Literal["text", "json"] = setting(
        "text", change="operational", doc="json: one object a line on standard error, in place of tables and bars"
    )

    @property
    def engines(self) -> RolloutConfig:
        """What engines are made with: `rollout`, with room for the adapters that the learner publishes."""
        lora = self.learner.lora
        if lora is None or lora.publish != "adapter" or self.rollout.max_lora_rank is not None:
            return self.rollout
        return self.rollout.model_copy(update={"max_lora_rank": lora.rank})

    @model_validator(mode="after")
    def _engines_have_room_for_adapters(self) -> "RunConfig":
        rank = self.engines.max_lora_rank
        if self.learner.lora is not None and rank is not None and self.learner.lora.rank > rank:
            raise ValueError(
                f"rollout.max_lora_rank is {rank}, but learner.lora.rank {self.learner.lora.rank}; leave the first out"
            )
        return self

    @model_validator(mode="after")
    def _losses_learn_from_the_rows(self) -> "RunConfig":
        if self.judge.pairing.select == "unpaired" and not self.learner.one_sided:
            names = " + ".join(term.name for term in self.learner.losses)
            raise ValueError(
                f"judge.pairing.select is unpaired, but learner.loss {names} learns from pairs alone; choose loss kto, "
                "or another select"
            )
        return self


def load_config(path: Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a YAML file and apply `a.b=value` overrides. Raises UsageError, one line for every mistake."""
    return parse_config(read_tree(path, overrides), origin=str(path))


def read_tree(path: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """A YAML file as plain values, with `a.b=value` overrides applied and nothing validated."""
    try:
        tree = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise UsageError(f"configuration {path} does not exist; configs/ holds examples") from error
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise UsageError(f"configuration {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise UsageError(f"configuration {path} holds {type(tree).__name__}, expected keys such as `policy:`")
    apply_overrides(tree, overrides or [])
    return tree


def apply_overrides(tree: dict[str, Any], overrides: Sequence[str]) -> None:
    """Set `a.b=value` in a tree of plain values. Raises UsageError."""
    for override in overrides:
        _apply(tree, override)


def parse_config(tree: dict[str, Any], *, origin: str) -> RunConfig:
    """Validate a tree of plain values. Raises UsageError that names the origin and every wrong key."""
    return parse_section(RunConfig.model_validate, tree, name="", origin=origin)


def parse_section(validate: Callable[[Any], T], section: Any, *, name: str, origin: str) -> T:
    """Validate one section of the tree by itself; name is its key. Raises UsageError like parse_config."""
    try:
        return validate(section)
    except ValidationError as error:
        prefix = (name,) if name else ()
        details = [{**detail, "loc": (*prefix, *detail["loc"])} for detail in error.errors()]
        raise UsageError(f"{origin}: {'; '.join(_problem(detail) for detail in details)}") from error


def _apply(tree: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals or not name:
        raise UsageError(f"--set {override}: expected a.b=value, for instance --set learner.beta=0.2")
    *parents, leaf = name.split(".")
    for parent in parents:
        if tree.get(parent) is None:
            tree[parent] = {}
        tree = tree[parent]
        if not isinstance(tree, dict):
            raise UsageError(f"--set {override}: {parent} is a value, not a section")
    try:
        tree[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {override}: {text!r} is not YAML; quote it") from error


def _problem(detail: dict[str, Any]) -> str:
    where, known = _place([str(part) for part in detail["loc"]])
    name = ".".join(where)
    if detail["type"] == "extra_forbidden":
        near = difflib.get_close_matches(where[-1], known, n=1, cutoff=0.5)
        return f"unknown key {name}" + (f", did you mean {'.'.join([*where[:-1], near[0]])}?" if near else "")
    if detail["type"] == "missing":
        return f"{name} is missing"
    message = str(detail["msg"]).removeprefix("Value error, ")
    got = "" if isinstance(detail["input"], dict) else f", got {detail['input']!r}"
    return f"{name}: {message[0].lower() + message[1:]}{got}"


def _place(loc: list[str]) -> tuple[list[str], list[str]]:
    """A mistake's dotted place as the user wrote it, and the keys that are known beside it.

    Pydantic puts the kind of a judge between its section and its key; that is no part of the file.
    """
    where: list[str] = []
    models: list[type[Settings]] = [RunConfig]
    for part in loc:
        field = next((model.model_fields[part] for model in models if part in model.model_fields), None)
        of_kind = [model for model in models if _kind_of(model) == part]
        if field is None and of_kind and where:
            models = of_kind
            continue
        where.append(part)
        if part != loc[-1] and not part.isdigit():
            models = [] if field is None else _sections(field.annotation)
    return where, sorted({name for model in models for name in model.model_fields})


def _kind_of(model: type[Settings]) -> str | None:
    field = model.model_fields.get("kind")
    return None if field is None else "plugin" if field.is_required() else str(field.default)


def _sections(annotation: Any) -> list[type[Settings]]:
    """Every section that a field's type may hold, through unions, tuples and annotations."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [section for each in get_args(annotation) for section in _sections(each)]
