"""The `judge:` section of the configuration: one judge by its kind, what it compares, and how answers become pairs."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Tag, TypeAdapter, model_validator

from judge.backend_config import KINDS, Backend, FunctionBackend, PluginBackend
from judge.human.config import HumanSettings
from judge.llm.config import LlmBackend
from judge.pairing_config import PairingConfig
from judge.reward.config import PreferenceModelBackend, RewardModelBackend
from judge.verifier.config import VerifierBackend
from rollout.types import Settings, setting


def _kind(section: Any) -> str:
    """Which of the union's types a section is; installed packages bring kinds of their own."""
    kind = section.get("kind", "function") if isinstance(section, dict) else getattr(section, "kind", "function")
    return kind if kind in KINDS else "plugin"


class HumanBackend(HumanSettings):
    """People, and the judge that says which pairs they see first."""

    rank_by: "AnyBackend | None" = setting(
        None, change="per_round", doc="a judge that ranks pairs: those that it can hardly tell apart come first"
    )


class EnsembleBackend(Backend):
    """Several judges asked alike, and their answers put together."""

    kind: Literal["ensemble"] = setting("ensemble", change="per_round", doc="several judges, put together")
    judges: "tuple[AnyBackend, ...]" = setting(
        change="per_round", min_length=2, doc="the judges; each has its own budget"
    )
    combine: Literal["mean", "worst_case", "mean_minus_std", "majority"] = setting(
        "worst_case", change="per_round", doc="mean, worst_case, mean_minus_std, or majority of the verdicts"
    )
    std_weight: float = setting(
        1.0, change="per_round", ge=0.0, allow_inf_nan=False, doc="lambda of mean - lambda * std"
    )
    min_judges: int = setting(1, change="per_round", ge=1, doc="with fewer answers than this the ensemble abstains")

    @model_validator(mode="after")
    def _has_enough_judges(self) -> Self:
        if self.min_judges > len(self.judges):
            raise ValueError(
                f"min_judges is {self.min_judges}, but there are {len(self.judges)} judges: it would always abstain; "
                "lower min_judges or add judges"
            )
        return self


class CascadeBackend(Backend):
    """A cheap judge first; the next one only where it is unsure or abstains, or the first two differ."""

    kind: Literal["cascade"] = setting("cascade", change="per_round", doc="cheap judge first, the next where unsure")
    judges: "tuple[AnyBackend, ...]" = setting(
        change="per_round", min_length=2, doc="in the order in which they are asked"
    )
    unsure_below: float = setting(
        0.8, change="per_round", ge=0.5, le=1.0, doc="ask the next judge where max(p, 1 - p) is lower than this"
    )
    score_scale: float = setting(
        1.0,
        change="per_round",
        gt=0.0,
        allow_inf_nan=False,
        doc="units of a scorer's difference in p = sigmoid(diff / scale)",
    )
    max_share: float = setting(
        1.0,
        change="per_round",
        gt=0.0,
        le=1.0,
        doc="share of a chunk's comparisons that may go on to each next judge, the least sure first",
    )
    escalate: Literal["unsure", "disagree", "either"] = setting(
        "unsure",
        change="per_round",
        doc="unsure asks one judge first; disagree and either ask the first two, and the third where they differ",
    )

    @model_validator(mode="after")
    def _has_a_judge_to_escalate_to(self) -> Self:
        if self.escalate != "unsure" and len(self.judges) < 3:
            raise ValueError(
                f"escalate is {self.escalate} with {len(self.judges)} judges: the third settles what the first two "
                "differ on; name a third, or use escalate: unsure"
            )
        return self


AnyBackend = Annotated[
    Annotated[FunctionBackend, Tag("function")]
    | Annotated[LlmBackend, Tag("llm")]
    | Annotated[RewardModelBackend, Tag("reward_model")]
    | Annotated[PreferenceModelBackend, Tag("preference_model")]
    | Annotated[VerifierBackend, Tag("verifier")]
    | Annotated[HumanBackend, Tag("human")]
    | Annotated[EnsembleBackend, Tag("ensemble")]
    | Annotated[CascadeBackend, Tag("cascade")]
    | Annotated[PluginBackend, Tag("plugin")],
    Discriminator(_kind),
]


class CanaryConfig(Settings):
    """Known pairs that the judge is asked among the real ones, every round."""

    path: str = setting(change="per_round", doc="file of prompts with two answers and a label, or chosen and rejected")
    num_per_round: int = setting(16, change="per_round", ge=1, doc="pairs drawn for a round")
    min_accuracy: float = setting(0.8, change="per_round", ge=0.0, le=1.0, doc="share to be ordered rightly")
    on_drop: Literal["warn", "stop"] = setting(
        "warn", change="operational", doc="stop: the run stops, until this says warn; resumable"
    )


class Judging(Settings):
    """What the judge of the training loop has beside its backend."""

    comparisons: Literal["all", "anchor", "random_k"] = setting(
        "all",
        change="per_round",
        doc="what a pairwise judge compares: all pairs, the first answer against each, or k drawn",
    )
    num_comparisons: int | None = setting(
        None, change="per_round", ge=1, doc="comparisons of one prompt, for comparisons: random_k"
    )
    pairing: PairingConfig = setting(PairingConfig(), change="per_round", doc="how answers become pairs")
    fallback: AnyBackend | None = setting(
        None, change="per_round", doc="judges a prompt where this judge's budget is spent or its endpoint fails"
    )
    canaries: CanaryConfig | None = setting(None, change="per_round", doc="known pairs that show when a judge drifts")
    num_actors: int = setting(1, change="operational", ge=1, doc="Ray actors that judge")
    cpus_per_actor: float = setting(0.0, change="operational", ge=0.0, doc="logical CPUs of each")
    gpus_per_actor: float = setting(0.0, change="operational", ge=0.0, doc="GPUs, or shares of one, of each")

    @model_validator(mode="after")
    def _random_k_has_its_k(self) -> Self:
        if (self.comparisons == "random_k") != (self.num_comparisons is not None):
            raise ValueError(
                f"num_comparisons is {self.num_comparisons} and comparisons is {self.comparisons}: "
                "set num_comparisons together with comparisons: random_k, and only there"
            )
        return self

    @model_validator(mode="after")
    def _asks_people_once_and_without_canaries(self) -> Self:
        people: list[HumanBackend] = list(_people_in(self)) if isinstance(self, Backend) else []
        if len(people) > 1:
            raise ValueError(f"people are asked {len(people)} times over; a round has one queue, so name them once")
        if self.canaries is not None and people:
            raise ValueError("canaries are for judges that answer at once; people get judge.gold among their pairs")
        return self


class FunctionJudge(FunctionBackend, Judging):
    """The loop's judge: code of the user."""


class LlmJudge(LlmBackend, Judging):
    """The loop's judge: a language model."""


class RewardModelJudge(RewardModelBackend, Judging):
    """The loop's judge: a reward model."""


class PreferenceModelJudge(PreferenceModelBackend, Judging):
    """The loop's judge: a preference model."""


class VerifierJudge(VerifierBackend, Judging):
    """The loop's judge: a verifier."""


class HumanJudge(HumanBackend, Judging):
    """The loop's judge: people."""


class EnsembleJudge(EnsembleBackend, Judging):
    """The loop's judge: an ensemble."""


class CascadeJudge(CascadeBackend, Judging):
    """The loop's judge: a cascade."""


class PluginJudge(PluginBackend, Judging):
    """The loop's judge: one of an installed package."""


JudgeConfig = Annotated[
    Annotated[FunctionJudge, Tag("function")]
    | Annotated[LlmJudge, Tag("llm")]
    | Annotated[RewardModelJudge, Tag("reward_model")]
    | Annotated[PreferenceModelJudge, Tag("preference_model")]
    | Annotated[VerifierJudge, Tag("verifier")]
    | Annotated[HumanJudge, Tag("human")]
    | Annotated[EnsembleJudge, Tag("ensemble")]
    | Annotated[CascadeJudge, Tag("cascade")]
    | Annotated[PluginJudge, Tag("plugin")],
    Discriminator(_kind),
]


def people_of(config: Backend) -> HumanBackend | None:
    """The settings of the people who are asked, by the judge itself, a member of it, or its fallback; None: nobody."""
    return next(_people_in(config), None)


def _people_in(config: Backend | None) -> Iterator[HumanBackend]:
    if isinstance(config, HumanBackend):
        yield config
        yield from _people_in(config.rank_by)
    if isinstance(config, EnsembleBackend | CascadeBackend):
        for member in config.judges:
            yield from _people_in(member)
    if isinstance(config, Judging):
        yield from _people_in(config.fallback)


_ADAPTER: TypeAdapter[JudgeConfig] = TypeAdapter(JudgeConfig)


def as_judge(backend: Backend) -> JudgeConfig:
    """A judge of its own with these settings, and defaults for what the loop's judge has beside them."""
    return _ADAPTER.validate_python(backend.model_dump(mode="json"))


def parse_judge(section: Any) -> JudgeConfig:
    """Validate a `judge:` section by itself. Raises pydantic's ValidationError."""
    return _ADAPTER.validate_python(section)
