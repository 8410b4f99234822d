"""`rondo reward-model fit`: the trainer in this process, its progress as lines, and its report as a table."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from learner.reward_config import RewardModelConfig
from learner.types import StepMetrics
from rollout.errors import UsageError

_NUM_LINES = 20
_KEEP = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


def fit(sources: Sequence[str], *, model: str, out: Path, console: Console, **given: Any) -> dict[str, Any]:
    """Fit a reward model and return its report as plain values. given: fields of RewardModelConfig, None for defaults.

    Raises UsageError, before anything is loaded, where a setting, the model or a source is wrong.
    """
    settings = _settings({name: value for name, value in given.items() if value is not None})
    folder = _find(model)
    quiet_transformers()
    from learner.reward_model import fit_reward_model

    steps = fit_reward_model(sources, model=folder, out=out, settings=settings)
    num_printed = 0
    while True:
        try:
            step = next(steps)
        except StopIteration as done:
            return {"out": str(out), **asdict(done.value)}
        if step.step * _NUM_LINES // step.num_steps > num_printed or step.step == 1:
            num_printed = step.step * _NUM_LINES // step.num_steps
            console.print(_line(step), highlight=False)


def quiet_transformers() -> None:
    """A new head is announced as a missing weight, and a file read as a bar: neither says anything to a person here."""
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _line(step: StepMetrics) -> str:
    values = step.values
    return (
        f"step {step.step}/{step.num_steps}  loss {values['loss']:.4f}  accuracy {values['accuracy']:.2f}  "
        f"gradient {values['grad_norm']:.2f}"
    )


def page(report: dict[str, Any]) -> Table:
    """The report for a person."""
    table = Table(title=f"reward model {report['out']}", title_justify="left", box=None, show_header=False)
    table.add_column("figure")
    table.add_column("value")
    dropped = ", ".join(f"{reason} {count}" for reason, count in report["dropped"].items()) or "none"
    table.add_row("trained on", f"{report['num_pairs']} pairs of {report['num_prompts']} prompts")
    table.add_row("not used", dropped)
    table.add_row("steps", f"{report['num_steps']}, loss {report['losses'][0]:.3f} to {report['losses'][-1]:.3f}")
    held = report["held_out"]
    if held is None:
        table.add_row("held out", "nothing: accuracy is not known")
        return table
    table.add_row("held out", f"{held['num_pairs']} pairs of {held['num_prompts']} prompts")
    table.add_row("accuracy", f"{held['accuracy']:.3f} [{held['low']:.3f}, {held['high']:.3f}]")
    table.add_row("log-loss, Brier", f"{held['log_loss']:.3f} nats, {held['brier']:.3f}")
    temperature = "none is best" if held["temperature"] is None else f"{held['temperature']:.2f}"
    table.add_row("calibration", f"error {held['ece']:.3f}, best temperature {temperature}")
    table.add_row("rewards", f"{held['mean_reward']:.2f} on average, deviation {held['std_reward']:.2f}")
    return table


def _settings(given: dict[str, Any]) -> RewardModelConfig:
    try:
        return RewardModelConfig(**given)
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("num_epochs", "epochs").replace("_", "-")
        raise UsageError(f"{option} is {first['input']!r}: {first['msg']}") from error


def _find(model: str) -> Path:
    """The policy's folder, downloaded where it is a hub name. Raises UsageError."""
    folder = Path(model)
    if not folder.is_dir():
        if folder.is_absolute() or model.startswith(".") or model.count("/") > 1:
            raise UsageError(f"--model {model} is not a folder; give a Hugging Face folder or a hub name")
        try:
            folder = Path(snapshot_download(model, allow_patterns=list(_KEEP)))
        except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
            raise UsageError(
                f"--model {model} is neither a folder nor a model that could be downloaded ({type(error).__name__}); "
                "check the name, the network and HF_TOKEN, or give a folder"
            ) from error
    if not (folder / "config.json").exists() or not list(folder.glob("*.safetensors")):
        raise UsageError(f"--model {model} lacks config.json or *.safetensors; save it with save_pretrained()")
    return folder
