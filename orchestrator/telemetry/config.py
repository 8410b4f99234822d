"""Settings of experiment trackers."""

from rollout.types import Settings, setting


class TrackingConfig(Settings):
    """Experiment trackers beside metrics.jsonl, each only where it is asked for and installed."""

    tensorboard: str | None = setting(None, change="operational", doc="folder of event files, one folder a run inside")
    wandb: str | None = setting(None, change="operational", doc="project in Weights & Biases")
    mlflow: str | None = setting(None, change="operational", doc="MLflow tracking URI")
    opentelemetry: str | None = setting(
        None, change="operational", pattern=r"^https?://", doc="OTLP/HTTP endpoint that gets a trace a round"
    )
