"""Settings of experiment trackers and notifications."""

from typing import Literal

from pydantic import field_validator

from rollout.types import Settings, setting

Notice = Literal["round_end", "alarm", "stop"]


class TrackingConfig(Settings):
    """Experiment trackers beside metrics.jsonl, each only where it is asked for and installed."""

    tensorboard: str | None = setting(None, change="operational", doc="folder of event files, one folder a run inside")
    wandb: str | None = setting(None, change="operational", doc="project in Weights & Biases")
    mlflow: str | None = setting(None, change="operational", doc="MLflow tracking URI")
    opentelemetry: str | None = setting(
        None, change="operational", pattern=r"^https?://", doc="OTLP/HTTP endpoint that gets a trace a round"
    )


class NotifyConfig(Settings):
    """Webhooks that hear of a run; addresses that are secrets come from the environment or a file."""

    urls: tuple[str, ...] = setting((), change="operational", doc="addresses that are no secrets")
    url_env: str | None = setting(
        None, change="operational", doc="environment variable with one address or more, separated by spaces"
    )
    url_file: str | None = setting(None, change="operational", doc="file with one address or more, a line each")
    events: tuple[Notice, ...] = setting(
        ("round_end", "alarm", "stop"), change="operational", min_length=1, doc="what is told"
    )
    deadline_s: float = setting(
        30.0, change="operational", gt=0, allow_inf_nan=False, doc="seconds after which a notice is given up"
    )

    @field_validator("urls")
    @classmethod
    def _are_addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            if not url.startswith(("http://", "https://")):
                raise ValueError("expected addresses that begin with http:// or https://")
        return urls
