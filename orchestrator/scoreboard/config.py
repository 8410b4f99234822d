"""When a round's policy is promoted, and what an alarm does."""

from typing import Literal

from rollout.types import Settings, setting


class GateConfig(Settings):
    """Rules that a round's policy must keep; a rule without a value is off."""

    min_win_rate_previous: float | None = setting(
        None, change="per_round", doc="least win rate against the policy that the round began with", ge=0, le=1
    )
    win_rate_statistic: Literal["low", "mean", "high"] = setting(
        "mean", change="per_round", doc="which end of the 95% interval is held against min_win_rate_previous"
    )
    max_kl: float | None = setting(None, change="per_round", doc="most KL to the base, nats a token (k3)", gt=0)
    max_length_growth: float | None = setting(
        None, change="per_round", doc="longest mean answer, as a multiple of the base's", gt=0
    )
    on_alarm: Literal["ignore", "rollback"] = setting(
        "ignore", change="per_round", doc="rollback: an alarm rolls back, whatever `action` says"
    )
    action: Literal["warn", "rollback"] = setting(
        "warn", change="per_round", doc="what a broken rule does: warn, or go on from the last good policy"
    )


class AlarmConfig(Settings):
    """When over-optimisation is called, and what follows."""

    rounds: int = setting(2, change="per_round", doc="rounds in a row before the alarm", ge=1)
    min_growth: float = setting(
        0.05, change="per_round", doc="share by which KL or length must have grown over those rounds", ge=0
    )
    action: Literal["warn", "stop"] = setting(
        "warn", change="operational", doc="stop: the run stops, until this says warn; resumable"
    )
