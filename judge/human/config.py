"""Settings of people as the judge: the queue, its rules, and the page that they label on."""

from collections import Counter
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from judge.backend_config import Backend
from rollout.types import Settings, setting

KEYS = {"a": "1", "b": "2", "tie": "3", "both_bad": "4", "skip": "s", "undo": "u", "diff": "d", "raw": "r", "help": "?"}


class Criterion(Settings):
    """One more question about the two answers."""

    name: str = setting(change="per_round", pattern=r"^[a-z][a-z0-9_]{0,39}$", doc="the column of its answers")
    question: str = setting(change="per_round", min_length=1, max_length=300, doc="what annotators read")


class GoldConfig(Settings):
    """Pairs with a known answer among the real ones; they show who labels with care."""

    path: str = setting(change="per_round", doc="file of prompts with two answers and a label, or chosen and rejected")
    share: float = setting(0.05, change="per_round", gt=0.0, le=0.5, doc="share of gold among what each person sees")
    min_accuracy: float = setting(
        0.7, change="per_round", ge=0.0, le=1.0, doc="below it an annotator is quarantined, reversibly"
    )
    min_answers: int = setting(10, change="per_round", ge=1, doc="gold answers before anybody is judged by them")


class OidcConfig(Settings):
    """Sign-in by an OpenID Connect provider."""

    issuer: str = setting(change="operational", pattern=r"^https?://", doc="the provider's address")
    client_id: str = setting(change="operational", doc="this page's id at the provider")
    client_secret_env: str = setting(
        "RONDO_OIDC_SECRET", change="operational", doc="environment variable that holds it"
    )
    claim: str = setting("email", change="operational", doc="claim that becomes the annotator's name")
    allowed_domains: tuple[str, ...] = setting((), change="operational", doc="of e-mail; empty: invited people alone")


class PageConfig(Settings):
    """The labelling page."""

    serve: bool = setting(True, change="operational", doc="serve it inside the run; false: `rondo label serve` apart")
    host: str = setting("127.0.0.1", change="operational", doc="address to listen on")
    port: int = setting(0, change="operational", ge=0, le=65535, doc="0: a free one")
    public_url: str | None = setting(
        None, change="operational", pattern=r"^https?://[^/]+$", doc="scheme and host that browsers see, behind a proxy"
    )
    keys: dict[str, str] = setting(KEYS, change="operational", doc="single-key shortcuts by action; {}: none")
    session_hours: float = setting(12.0, change="operational", gt=0.0, doc="a session ends after this long unused")
    trusted_header: str | None = setting(
        None, change="operational", doc="header in which a proxy names the signed-in user, with trusted_proxies"
    )
    trusted_proxies: tuple[str, ...] = setting((), change="operational", doc="networks whose header is believed")
    oidc: OidcConfig | None = setting(None, change="operational", doc="sign-in by OpenID Connect")

    @field_validator("keys")
    @classmethod
    def _are_single_and_distinct(cls, keys: dict[str, str]) -> dict[str, str]:
        unknown = sorted(keys.keys() - KEYS.keys())
        if unknown:
            raise ValueError(f"got actions {unknown}, expected some of {', '.join(KEYS)}")
        twice = sorted(key for key, num in Counter(keys.values()).items() if num > 1)
        if twice or any(len(key) != 1 for key in keys.values()):
            raise ValueError(f"got {keys}, expected one character for each action, and no character twice")
        return keys

    @model_validator(mode="after")
    def _believes_a_header_from_proxies_alone(self) -> Self:
        if bool(self.trusted_header) != bool(self.trusted_proxies):
            raise ValueError("trusted_header and trusted_proxies belong together: anybody can send a header")
        return self


class HumanSettings(Backend):
    """People compare the answers on a web page; a round seals when enough labels are in, or at its deadline."""

    kind: Literal["human"] = setting("human", change="per_round", doc="people, through a queue and a page")
    queue_url: str | None = setting(
        None,
        change="operational",
        doc="e.g. postgresql://rondo@db/labels; none: RUN/labels/queue.sqlite",
    )
    seal_share: float = setting(1.0, change="per_round", gt=0.0, le=1.0, doc="share of pairs with a quorum that seals")
    deadline_s: float = setting(
        259_200.0, change="per_round", gt=0.0, allow_inf_nan=False, doc="seconds from the filled queue to the seal"
    )
    overlap: int = setting(1, change="per_round", ge=1, le=9, doc="labels that each pair needs")
    double_share: float = setting(
        0.1, change="per_round", ge=0.0, le=1.0, doc="share of pairs that get one label more, for agreement"
    )
    max_labels: int = setting(
        3, change="per_round", ge=1, le=19, doc="where labels disagree more are asked for, up to this many"
    )
    max_skips: int = setting(2, change="per_round", ge=1, doc="people who may skip a pair before it is given up")
    lease_s: float = setting(300.0, change="per_round", gt=0.0, allow_inf_nan=False, doc="a shown pair is held so long")
    min_dwell_s: float = setting(
        1.0, change="per_round", ge=0.0, allow_inf_nan=False, doc="a label that comes sooner than this is refused"
    )
    labels_per_minute: int = setting(40, change="per_round", ge=1, doc="more from one annotator are refused")
    criteria: tuple[Criterion, ...] = setting((), change="per_round", doc="further questions about each pair")
    guidelines: str | None = setting(None, change="per_round", doc="Markdown file that annotators read")
    gold: GoldConfig | None = setting(None, change="per_round", doc="pairs with known answers among the real ones")
    while_waiting: Literal["hold", "release"] = setting(
        "hold", change="operational", doc="release: stop with exit code 3 once the queue is filled, and resubmit later"
    )
    webhook: str | None = setting(
        None, change="operational", pattern=r"^https?://", doc="gets a POST of JSON when a round seals"
    )
    evaluate: bool = setting(
        False, change="per_round", doc="people compare held-out answers, too; else evaluation.gold alone does"
    )
    page: PageConfig = setting(PageConfig(), change="operational", doc="the labelling page")

    @field_validator("queue_url")
    @classmethod
    def _keeps_secrets_out(cls, url: str | None) -> str | None:
        if url is None:
            return url
        if not url.startswith(("sqlite:///", "postgresql://")):
            raise ValueError("expected sqlite:///path or postgresql://user@host/name")
        if urlsplit(url).password:
            raise ValueError("it holds a password; put that into the environment as PGPASSWORD, or into ~/.pgpass")
        return url

    @model_validator(mode="after")
    def _rules_can_be_met(self) -> Self:
        need = self.overlap + (1 if self.double_share > 0 else 0)
        if self.max_labels < need:
            raise ValueError(f"max_labels is {self.max_labels}, but overlap and double_share ask for {need}")
        names = [criterion.name for criterion in self.criteria]
        if len(set(names)) < len(names):
            raise ValueError(f"criteria have names {names}; each needs one of its own")
        if self.while_waiting == "release" and self.page.serve:
            raise ValueError(
                "while_waiting is release and page.serve is true: the page would end with the run; "
                "set page.serve: false and start `rondo label serve` apart"
            )
        return self

    def rules(self) -> dict[str, Any]:
        """What a round in the queue is opened with, and keeps."""
        names = ("seal_share", "deadline_s", "overlap", "double_share", "max_labels", "max_skips", "lease_s")
        return {name: getattr(self, name) for name in (*names, "min_dwell_s", "labels_per_minute")}
