"""The nouns of labelling by people."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from judge.types import Purpose
from rollout.types import Message

Label = Literal["a", "b", "tie", "both_bad", "skip"]
LABELS: tuple[Label, ...] = ("a", "b", "tie", "both_bad", "skip")
Strength = Literal["slightly", "clearly"]
RoundState = Literal["open", "collecting", "sealed"]
Role = Literal["annotator", "administrator"]


@dataclass(frozen=True, kw_only=True)
class RoundKey:
    """Names one round of one run in the queue; held-out comparisons of a round are a queue of their own."""

    run_id: str
    round_id: int
    purpose: Purpose = "pairs"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What a round is opened with and keeps: see HumanSettings for each."""

    seal_share: float = 1.0
    deadline_s: float = 259_200.0
    overlap: int = 1
    double_share: float = 0.1
    max_labels: int = 3
    max_skips: int = 2
    lease_s: float = 300.0
    min_dwell_s: float = 1.0
    labels_per_minute: int = 40
    gold_share: float = 0.0
    gold_min_accuracy: float = 0.7
    gold_min_answers: int = 10
    criteria: tuple[tuple[str, str], ...] = ()
    guidelines: str = ""
    webhook: str = ""
    resume: str = ""


@dataclass(frozen=True, kw_only=True)
class NewTask:
    """A pair for people: two answers, first (a) and second (b), to one prompt.

    key is unique in its round and names place and contents; priority is higher where a label tells more; gold is the
    known label of a pair that is there to see who labels with care; origin says where the pair came from.
    """

    key: str
    prompt_id: str
    a: int
    b: int
    messages: tuple[Message, ...]
    text_a: str
    text_b: str
    priority: float = 0.0
    gold: Literal["a", "b", "tie"] | None = None
    origin: str = "run"


@dataclass(frozen=True, kw_only=True)
class RoundView:
    """How far a round is. Times in seconds since the epoch; num_tasks leaves gold out; sha256 is of a sealed round."""

    row_id: int
    key: RoundKey
    run_name: str
    state: RoundState
    rules: Rules
    num_tasks: int
    num_resolved: int
    num_given_up: int
    num_labels: int
    num_late: int
    opened_at: float
    deadline_at: float | None
    sealed_at: float | None
    sealed_by: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class GivenLabel:
    """One label as it counts: a and b are the pair's own, whichever side each was shown on. seconds: time it took."""

    annotator_id: int
    label: Label
    strength: Strength | None = None
    reason: str = ""
    comment: str = ""
    criteria: Mapping[str, str] = field(default_factory=dict)
    swapped: bool = False
    seconds: float = 0.0
    at: float = 0.0
    is_late: bool = False


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What people said on a pair of a sealed round.

    outcome is abstain where nothing was settled, and reason then says why: deadline, no_majority or all_skipped.
    p_a is the share of the votes for a, ties half, where more than one person voted, else None.
    """

    key: str
    prompt_id: str
    a: int
    b: int
    outcome: Literal["a", "b", "tie", "both_bad", "abstain"]
    p_a: float | None
    reason: str
    labels: tuple[GivenLabel, ...]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Somebody who is signed in."""

    annotator_id: int
    name: str
    role: Role
    is_quarantined: bool = False


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A pair that one annotator holds: left and right are as shown, which neither tells of a model nor of a or b.

    token is the key under which its label is handed in, once. deadline_at is the round's, None until it is filled.
    """

    token: str
    task_id: str
    messages: tuple[Message, ...]
    left: str
    right: str
    round_id: int
    purpose: Purpose
    rules: Rules
    shown_at: float
    expires_at: float
    deadline_at: float | None
    former: Mapping[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What an annotator hands in, by the sides that they saw."""

    choice: Literal["left", "right", "tie", "both_bad", "skip"]
    strength: Strength | None = None
    reason: str = ""
    comment: str = ""
    criteria: Mapping[str, Literal["left", "right", "tie"]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """A submission was taken: label_id undoes it; is_replay says that the same one had been taken before."""

    label_id: int
    is_replay: bool
    is_round_sealed: bool = False


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What an annotator sees of their own work and of the rounds that are open."""

    num_mine: int
    num_mine_today: int
    median_seconds: float | None
    num_waiting: int
    num_resolved: int
    num_tasks: int
    deadline_at: float | None
