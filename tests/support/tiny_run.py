"""A whole run in this process and without Ray."""

from pathlib import Path

from rich.console import Console

from orchestrator.base import existing_base, link_base
from orchestrator.config import RunConfig
from orchestrator.journal import Journal
from orchestrator.loop import run_rounds
from orchestrator.observer import Observer
from orchestrator.preflight import check_inputs
from orchestrator.rundir import open_run
from tests.support.local_cluster import local_cluster


def tiny_run(config: RunConfig, root: Path, *, amend: bool = False) -> Journal:
    """What `rondo run` does, in this process and without Ray."""
    inputs = check_inputs(config)
    run = open_run(root, config, amend=amend)
    observer = Observer(root, console=Console(quiet=True))
    base = existing_base(root) or link_base(root, inputs.policy_folder)
    journal = Journal(run, base_policy=base)
    run_rounds(journal, local_cluster(run, base), inputs.prompts, inputs.held_out, observer)
    return journal
