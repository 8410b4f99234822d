"""The journal: what each round has committed. Opening a round again returns its finished stages filled in."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from judge.types import PairShard
from orchestrator.rundir import RunDir
from orchestrator.types import RoundRecord
from rollout.errors import IntegrityError
from rollout.prompts import PromptOrder
from rollout.shards import hash_file, hash_json, read_json, write_json
from rollout.types import PolicyRef, Prompt


@dataclasses.dataclass(frozen=True, kw_only=True)
class DrawnPrompts:
    """The prompts of one round, out of the set with this hash."""

    prompt_ids: tuple[str, ...]
    prompt_set: str


@dataclasses.dataclass(kw_only=True)
class _Turns:
    """A set of prompts, its hash, and its order as it stands before round_id is drawn."""

    round_id: int
    prompts: tuple[Prompt, ...]
    prompt_set: str
    order: PromptOrder


class Journal:
    """Reads and commits the records of one run; it alone writes record.json and drawn.json."""

    def __init__(self, run: RunDir, *, base_policy: PolicyRef) -> None:
        self.run = run
        self.base_policy = base_policy
        self._turns: _Turns | None = None
        self._last_drawn: tuple[int, tuple[str, ...]] = (-1, ())
        self._replayed: dict[int, tuple[PairShard, ...]] = {}

    def open(self, round_id: int, *, policy_in: PolicyRef, prompts: tuple[Prompt, ...]) -> RoundRecord:
        """The record of this round, made now unless it exists."""
        path = self._path(round_id)
        if path.exists():
            record = read_json(path, RoundRecord)
            if record.policy_in != policy_in:
                raise IntegrityError(
                    f"{path} was opened with policy v{record.policy_in.version}, but round {round_id - 1} "
                    f"hands on v{policy_in.version}; restore the file, or fork the run from round {round_id - 1}"
                )
            return record
        drawn = self.draw(round_id, prompts)
        record = RoundRecord(
            round_id=round_id,
            settings=self.run.settings_hash(round_id),
            prompt_set=drawn.prompt_set,
            drawn_sha256=hash_file(self._drawn_path(round_id)),
            num_prompts=len(drawn.prompt_ids),
            policy_sampled=self.policy_sampled(round_id) or policy_in,
            policy_in=policy_in,
        )
        return self.commit(record)

    def draw(self, round_id: int, prompts: tuple[Prompt, ...]) -> DrawnPrompts:
        """Settle which prompts a round has, once; from then on its settings stand, too."""
        path = self._drawn_path(round_id)
        if path.exists():
            return read_json(path, DrawnPrompts)
        turns = self._turns_of(round_id, prompts)
        chosen = turns.order.draw(self.run.config_at(round_id).prompts.num_per_round)
        turns.round_id += 1
        drawn = DrawnPrompts(prompt_ids=tuple(prompt.prompt_id for prompt in chosen), prompt_set=turns.prompt_set)
        write_json(path, drawn, DrawnPrompts)
        self._last_drawn = (round_id, drawn.prompt_ids)
        return drawn

    def policy_sampled(self, round_id: int) -> PolicyRef | None:
        """Who answers this round's prompts: the policy that the round `max_policy_lag` earlier began with.

        None where that is the round itself, which has to be opened first.
        """
        sampled_in = max(0, round_id - self.run.config_at(round_id).max_policy_lag)
        return None if sampled_in == round_id else self.record(sampled_in).policy_in

    def commit(self, record: RoundRecord, **changes: Any) -> RoundRecord:
        """Write the record with these fields set; once this returns, the stage is done for good."""
        record = dataclasses.replace(record, **changes)
        if "shards" in changes:
            rejected: Counter[str] = Counter()
            abstained: Counter[str] = Counter()
            for shard in record.shards or ():
                rejected.update({reason: len(ids) for reason, ids in shard.rejected.items()})
                abstained.update(shard.num_abstained)
            record = dataclasses.replace(record, num_rejected=dict(rejected), num_abstained=dict(abstained))
        write_json(self._path(record.round_id), record, RoundRecord)
        return record

    def record(self, round_id: int) -> RoundRecord:
        """A round that has been opened. Raises IntegrityError if it has not."""
        return read_json(self._path(round_id), RoundRecord)

    def is_open(self, round_id: int) -> bool:
        """Whether a round has been opened."""
        return self._path(round_id).exists()

    @property
    def num_opened(self) -> int:
        """Rounds that have been opened; they are opened in order."""
        return sum(1 for _ in self.run.root.glob("rounds/*/record.json"))

    def replay(self, round_id: int) -> list[PairShard]:
        """The pair shards of all rounds before this one, where its settings replay any."""
        if not self.run.config_at(round_id).learner.replay_share:
            return []
        for earlier in range(len(self._replayed), round_id):
            self._replayed[earlier] = self.record(earlier).shards or ()
        return [shard for earlier in range(round_id) for shard in self._replayed[earlier]]

    def records(self) -> list[RoundRecord]:
        """All opened rounds, in order."""
        return [read_json(path, RoundRecord) for path in sorted(self.run.root.glob("rounds/*/record.json"))]

    def drawn(self, round_id: int) -> tuple[str, ...]:
        """The ids of the prompts drawn for a round."""
        known, ids = self._last_drawn
        return ids if known == round_id else read_json(self._drawn_path(round_id), DrawnPrompts).prompt_ids

    def _turns_of(self, round_id: int, prompts: tuple[Prompt, ...]) -> "_Turns":
        """The order of the prompts as of this round: kept from the draw before, or made anew from all of them."""
        turns = self._turns
        if turns is None or turns.round_id != round_id or turns.prompts is not prompts:
            drawn = [self.drawn(earlier) for earlier in range(round_id)]
            order = PromptOrder(prompts, seed=self.run.config.seed, drawn=drawn)
            prompt_set = hash_json(sorted(prompt.prompt_id for prompt in prompts))
            turns = self._turns = _Turns(round_id=round_id, prompts=prompts, prompt_set=prompt_set, order=order)
        return turns

    def _path(self, round_id: int) -> Path:
        return self.run.root / self.run.round_dir(round_id) / "record.json"

    def _drawn_path(self, round_id: int) -> Path:
        return self._path(round_id).with_name("drawn.json")
