"""Settings of retention."""

from rollout.types import Settings, setting


class RetentionConfig(Settings):
    """How many of the newest are kept, beside the base and all that the next rounds need; null: all."""

    policies: int | None = setting(None, change="operational", ge=1, doc="published policies that are kept; null: all")
    learner_states: int | None = setting(
        None, change="operational", ge=1, doc="fp32 states that are kept, for forks that learn on; null: all"
    )
