"""`rondo fork`: a new run from a round of an old one.

What is kept of the parent is hard-linked, or copied where parent and fork lie on different file systems. A run never
changes a file in place, it only replaces whole ones, so that a link is as good as a copy, takes no room, and outlives
the parent. The records of the rounds kept hold the hashes of their files, and config.json those of the records; pairs,
policies and the learner's state are checked against them here, all else whenever it is read.
"""

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from orchestrator.base import BASE_MANIFEST, existing_base
from orchestrator.changes import changed
from orchestrator.config import RunConfig, apply_overrides, parse_config
from orchestrator.journal import Journal
from orchestrator.retention import needed_policies, published_versions
from orchestrator.rundir import CONFIG_FILE, Amendment, Parent, RunDir, RunFile, new_run_file
from orchestrator.status import open_journal
from orchestrator.types import RoundRecord
from rollout.errors import IntegrityError, UsageError
from rollout.shards import (
    hash_file,
    hash_policy,
    is_temporary,
    publish,
    sync_folders,
    temporary_beside,
    write_bytes,
    write_json,
)
from rollout.types import PolicyRef

SETTINGS_FILE = "fork.yaml"
_OF_THE_BASE = ("policy.path", "policy.scratch", "policy.sft")
_OF_TOKENS = ("policy.chat_template", "policy.chat_template_kwargs")


def fork_run(
    source: Path, out: Path, *, round_id: int, overrides: Sequence[str] = (), warn: Callable[[str], None]
) -> RunDir:
    """Make the run OUT, which keeps the rounds before round_id and begins that one with the policy that it began with.

    warn is told where the learner's fp32 state is gone. Raises UsageError where that round cannot be begun or the
    settings cannot change so, IntegrityError where a file is not what the parent committed; then there is no OUT.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out} exists already; give the folder of a new run as --out")
    fork = _Fork(open_journal(source), round_id, overrides)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(out.absolute())
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        fork.write(temporary, warn)
        publish(temporary, out.absolute())
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return RunDir(out.absolute(), fork.file)


class _Fork:
    """What a fork consists of; nothing is written before `write`."""

    def __init__(self, parent: Journal, round_id: int, overrides: Sequence[str]) -> None:
        self.parent, self.round_id = parent, round_id
        self.root = parent.run.root
        self.kept = _kept_rounds(parent, round_id)
        base = existing_base(self.root)
        if base is None:
            raise UsageError(f"{self.root} has no base policy yet, and so nothing to fork; run it first")
        self.base = base
        self.policy = self.kept[-1].policy_next or self.kept[-1].policy_in if self.kept else base
        self.before = parent.run.config_at(round_id)
        self.config = self._changed_config(overrides)

    @property
    def changes(self) -> tuple[str, ...]:
        """The settings that differ from the parent's, of whatever kind."""
        found = changed(self.before, self.config)
        return tuple(change for kind in ("identity", "per_round", "operational") for change in found[kind])

    def write(self, folder: Path, warn: Callable[[str], None]) -> None:
        """Fill the folder of the new run, config.json last."""
        self._link_policies(folder)
        for record in self.kept:
            self._link_round(folder, record)
        state = self._restore_state(folder, warn)
        sync_folders(folder)
        self.file = self._run_file(state)
        settings = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False)
        write_bytes(folder / SETTINGS_FILE, settings.encode())
        write_json(folder / CONFIG_FILE, self.file, RunFile)

    def _changed_config(self, overrides: Sequence[str]) -> RunConfig:
        tree = self.before.model_dump(mode="json")
        apply_overrides(tree, overrides)
        config = parse_config(tree, origin="--set")
        names = [change.partition(":")[0] for change in changed(self.before, config)["identity"]]
        _refuse(names, _OF_THE_BASE, "a fork keeps the base of its parent as its reference; start a run of its own")
        if self.policy.version > 0:
            shape = "the learner's state belongs to the adapter it was made with; fork at --round 0"
            _refuse(names, ("learner.lora",), shape)
        if self.kept and config.learner.replay_share:
            _refuse(names, _OF_TOKENS, "older pairs cannot be replayed under it; also --set learner.replay_share=0")
        if config.num_rounds <= self.round_id:
            raise UsageError(
                f"num_rounds is {config.num_rounds}, so a fork at round {self.round_id} has nothing left to do; "
                f"--set num_rounds={self.round_id + 1} or more"
            )
        return config

    def _run_file(self, state: str) -> RunFile:
        run = self.parent.run
        parent = Parent(
            run_id=run.run_id,
            round_id=self.round_id,
            policy=self.policy,
            records=tuple(hash_file(self.root / run.round_dir(one.round_id) / "record.json") for one in self.kept),
            learner_state=state,  # type: ignore[arg-type]
            path=str(self.root),
        )
        file = new_run_file(self.config, started_on=run.file.started_on, parent=parent)
        if not self.kept:
            return file
        earlier = tuple(one for one in run.file.amendments if one.from_round < self.round_id)
        new = Amendment(from_round=self.round_id, changes=self.changes, config=file.config)
        return dataclasses.replace(file, config=run.file.config, amendments=(*earlier, new))

    def _link_policies(self, folder: Path) -> None:
        """The base, all that the new run needs, and what else is left of the rounds kept."""
        wanted = {record.policy_out.path: record.policy_out for record in self.kept}
        sampling = self.kept[max(0, self.round_id - self.config.max_policy_lag) :]
        needed = needed_policies(sampling, base=self.base, policy_next=self.policy)
        for policy in needed.values():
            if not (self.root / policy.path).exists():
                raise UsageError(
                    f"policy v{policy.version} of {self.root}, which round {self.round_id} needs, was deleted by "
                    f"retention.policies; left are {', '.join(f'v{left}' for left in published_versions(self.root))}"
                )
        for policy in {**wanted, **{one.path: one for one in needed.values()}}.values():
            if (self.root / policy.path).exists():
                _check_policy(self.root / policy.path, policy)
                _link(self.root / policy.path, folder / policy.path)
        _link(self.root / BASE_MANIFEST, folder / BASE_MANIFEST)

    def _link_round(self, folder: Path, record: RoundRecord) -> None:
        """A round's files; held-out answers only where the new run would render their prompts in the same way."""
        for shard in record.shards or ():
            if hash_file(self.root / shard.path) != shard.sha256:
                raise IntegrityError(f"{self.root / shard.path} was altered: its sha256 is not that of the journal")
        same = all(change.startswith("seed:") for change in changed(self.before, self.config)["identity"])
        place = self.parent.run.round_dir(record.round_id)
        for found in sorted((self.root / place).iterdir()):
            if same or found.name != "evaluation":
                _link(found, folder / place / found.name)

    def _restore_state(self, folder: Path, warn: Callable[[str], None]) -> str:
        from learner.restart import begin_state, check_state  # torch takes seconds, and a refusal needs none of it

        version = self.policy.version
        if version == 0:
            return "none"
        place = f"learner/{version - 1:04d}"
        if (self.root / place).exists():
            check_state(self.root / place, version=version)
            _link(self.root / place, folder / place)
            return "restored"
        warn(
            f"the learner's fp32 state of policy v{version} is gone ({self.root / place}; retention.learner_states); "
            "learning begins anew from the published weights, without moments"
        )
        begin_state(
            folder / place,
            policy=self.policy,
            policy_folder=folder / self.policy.path,
            settings=self.config.learner,
            num_steps=sum(record.update.num_steps for record in self.kept if record.update),
            seed=self.config.seed,
        )
        return "begun anew"


def _kept_rounds(journal: Journal, round_id: int) -> list[RoundRecord]:
    """The rounds before round_id. Raises UsageError where one of them is not done."""
    records = journal.records()
    num_done = next((i for i, record in enumerate(records) if record.stage != "done"), len(records))
    if not 0 <= round_id <= num_done:
        raise UsageError(
            f"--round {round_id}: {journal.run.root} has finished {num_done} rounds, so a fork can begin at round "
            f"0 to {num_done}; rounds before it are kept"
        )
    return records[:round_id]


def _refuse(names: Sequence[str], refused: Sequence[str], why: str) -> None:
    for name in names:
        if any(name == one or name.startswith(f"{one}.") for one in refused):
            raise UsageError(f"--set {name}: {why}")


def _check_policy(folder: Path, policy: PolicyRef) -> None:
    if hash_policy(folder) != policy.sha256:
        raise IntegrityError(f"{folder} was altered: its sha256 is not the one in the journal of the parent")


def _link(source: Path, target: Path) -> None:
    """Give a file, or all files of a folder, a second name; the base's own links lead where they led."""
    if is_temporary(source):
        return
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        for inner in sorted(source.iterdir()):
            _link(inner, target / inner.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        os.symlink(source.resolve(), target)
        return
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
        with open(target, "rb") as file:
            os.fsync(file.fileno())
