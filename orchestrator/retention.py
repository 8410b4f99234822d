"""Retention: old policies and learner states are deleted once nothing that is still to be done needs them.

A folder is renamed before its files are removed, so that it is there as a whole or not at all; what a crash leaves of
it is swept up when the run is opened again.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from orchestrator.journal import Journal
from orchestrator.observer import Observer
from orchestrator.types import RoundRecord
from rollout.errors import UsageError
from rollout.shards import discard
from rollout.types import PolicyRef


def retire(journal: Journal, record: RoundRecord, observer: Observer) -> None:
    """Delete what `retention` does not keep after this round, the newest that is done; counted in metrics.jsonl."""
    config, root = journal.run.config.retention, journal.run.root
    if (config.policies, config.learner_states) == (None, None) or journal.is_open(record.round_id + 1):
        return
    policy_next = record.policy_next or record.policy_in
    earlier = [journal.record(round_id) for round_id in _looked_back_to(journal, record.round_id + 1)]
    needed = needed_policies(earlier, base=journal.base_policy, policy_next=policy_next)
    policies = _old(published_versions(root), keep=config.policies, needed=needed)
    states = _old(state_versions(root), keep=config.learner_states, needed=[policy_next.version])
    size_bytes = sum(discard(policy_folder(root, version)) for version in policies)
    size_bytes += sum(discard(_state_folder(root, version)) for version in states)
    if policies or states:
        counts = {"num_policies": len(policies), "num_learner_states": len(states), "size_bytes": size_bytes}
        observer.record("retired", policies=policies, learner_states=states, **counts)
        observer.say(
            f"retention: deleted {_named('policies', policies)} and {_named('learner states', states)} "
            f"({size_bytes / 2**20:,.1f} MiB)"
        )


def needed_policies(
    sampling: Iterable[RoundRecord], *, base: PolicyRef, policy_next: PolicyRef
) -> dict[int, PolicyRef]:
    """By version, what rounds not yet opened need: the base, the policy that the next one begins with and that the gate
    may roll back to, and those by which rounds are sampled that began `sampling` rounds earlier."""
    return {one.version: one for one in (base, policy_next, *(record.policy_in for record in sampling))}


def refuse_deleted(journal: Journal) -> None:
    """Raise UsageError where the next round is to be sampled by a policy that was deleted: the lag was raised since."""
    num_opened = journal.num_opened
    for round_id in _looked_back_to(journal, num_opened):
        policy = journal.record(round_id).policy_in
        if not (journal.run.root / policy.path).exists():
            raise UsageError(
                f"max_policy_lag is {journal.run.config_at(num_opened).max_policy_lag}, so round {num_opened} needs "
                f"policy v{policy.version}, which retention.policies has deleted; put max_policy_lag back"
            )


def published_versions(root: Path) -> list[int]:
    """Versions of the policies that are left, without the base."""
    return sorted(int(path.name[1:]) for path in root.glob("policies/v[0-9]*") if path.is_dir() and path.name > "v0000")


def state_versions(root: Path) -> list[int]:
    """Versions of the policies whose learner state is left."""
    return sorted(int(path.name) + 1 for path in root.glob("learner/[0-9]*") if path.is_dir())


def policy_folder(root: Path, version: int) -> Path:
    return root / "policies" / f"v{version:04d}"


def _state_folder(root: Path, version: int) -> Path:
    return root / "learner" / f"{version - 1:04d}"


def _looked_back_to(journal: Journal, next_round: int) -> range:
    """The rounds whose first policy samples a round from next_round on."""
    return range(max(0, next_round - journal.run.config_at(next_round).max_policy_lag), next_round)


def _old(versions: Sequence[int], *, keep: int | None, needed: Iterable[int]) -> list[int]:
    return [] if keep is None else [version for version in versions[:-keep] if version not in set(needed)]


def _named(what: str, versions: Sequence[int]) -> str:
    return f"{what} {', '.join(f'v{version}' for version in versions)}" if versions else f"no {what}"
