"""Judges chunks of completions: answers first, durably, and then the pairs that follow from them."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from judge.backend import Scorer, build
from judge.config import JudgeConfig
from judge.pairing import comparisons, reasons_of
from judge.pairs import pair_or_reason
from judge.shards import read_verdicts, write_pairs, write_verdicts
from judge.types import Answer, PairShard, PreferencePair, Verdict, VerdictShard
from rollout.errors import IntegrityError
from rollout.shards import read_groups, read_json
from rollout.types import CompletionGroup, GroupShard

_LOG = logging.getLogger(__name__)


class JudgeWorker:
    """Turns group shards into verdict and pair shards under run_dir; whatever is finished there is not redone."""

    def __init__(self, *, settings: JudgeConfig, run_dir: Path, run_id: str) -> None:
        self._run_dir = run_dir
        self._run_id = run_id
        self.configure(settings)

    def configure(self, settings: JudgeConfig) -> None:
        """Judge what comes next by these settings. Raises UsageError if the judge cannot work."""
        self._settings = settings
        self._judge = build(settings)
        self._scorer = self._judge if isinstance(self._judge, Scorer) else None

    @property
    def judge_id(self) -> str:
        """Names the judge, its source text and its settings."""
        return self._judge.judge_id

    async def build(self, shard: GroupShard, *, verdict_dir: str, pair_dir: str) -> PairShard:
        """The pairs of one chunk, written under pair_dir after the answers under verdict_dir.

        Every prompt of the chunk has its pair or stands under exactly one reason. Raises IntegrityError if answers
        are there that belong to other completions.
        """
        manifest = self._manifest(pair_dir, shard)
        if manifest.exists():
            return read_json(manifest, PairShard)
        groups = await asyncio.to_thread(read_groups, self._run_dir, shard)
        found = self._find_answers(verdict_dir, [shard])
        if found is None:
            found = list(chain.from_iterable(await asyncio.gather(*map(self._answers, groups))))
            self._write_answers(verdict_dir, [shard], found)
        by_prompt: dict[str, list[Answer]] = {group.prompt.prompt_id: [] for group in groups}
        for answer in found:
            by_prompt[answer.prompt_id].append(answer)
        pairs: list[PreferencePair] = []
        rejected = defaultdict(list, {reason: list(ids) for reason, ids in shard.rejected.items()})
        for group in groups:
            outcome = self._pair(group, by_prompt[group.prompt.prompt_id], shard)
            if isinstance(outcome, PreferencePair):
                pairs.append(outcome)
            else:
                rejected[outcome].append(group.prompt.prompt_id)
        return write_pairs(
            run_dir=self._run_dir,
            shard_dir=pair_dir,
            groups=shard,
            pairs=pairs,
            rejected={reason: tuple(ids) for reason, ids in rejected.items()},
            num_abstained=reasons_of(found),
        )

    async def compare(self, candidate: GroupShard, baseline: GroupShard, *, out_dir: str) -> list[Verdict]:
        """Verdicts on the candidate's completion (a) against the baseline's (b) of the same prompt and index.

        A completion without a counterpart is an abstention (no_counterpart). Written under out_dir, and read back
        from there when the same two shards are compared again.
        """
        shards = [candidate, baseline]
        found = self._find_answers(out_dir, shards)
        if found is None:
            theirs, ours = (
                {group.prompt.prompt_id: group for group in read_groups(self._run_dir, shard)}
                for shard in (baseline, candidate)
            )
            prompt_ids = list(dict.fromkeys([*ours, *theirs]))
            verdicts = await asyncio.gather(*(self._against(ours.get(i), theirs.get(i)) for i in prompt_ids))
            found = list(chain.from_iterable(verdicts))
            self._write_answers(out_dir, shards, found)
        return [answer for answer in found if isinstance(answer, Verdict)]

    async def _answers(self, group: CompletionGroup) -> Sequence[Answer]:
        if self._scorer is not None:
            return await self._scorer.score(group)
        return await self._judge.judge(group, comparisons(group, self._settings))

    async def _against(self, ours: CompletionGroup | None, theirs: CompletionGroup | None) -> list[Verdict]:
        left = {completion.index: completion for completion in ours.completions} if ours else {}
        right = {completion.index: completion for completion in theirs.completions} if theirs else {}
        group = ours or theirs
        assert group is not None
        common = sorted(left.keys() & right.keys())
        # Both sides in one group with indices of its own, so that any judge can compare across two policies.
        sides = [*(left[index] for index in common), *(right[index] for index in common)]
        both = replace(group, completions=tuple(replace(one, index=place) for place, one in enumerate(sides)))
        wanted = [(place, place + len(common)) for place in range(len(common))]
        verdicts = [replace(each, a=common[each.a], b=common[each.a]) for each in await self._judge.judge(both, wanted)]
        return verdicts + [
            Verdict(
                prompt_id=group.prompt.prompt_id,
                a=index,
                b=index,
                outcome="abstain",
                p_a=None,
                judge_id=self._judge.judge_id,
                source=self._judge.source,
                reason="no_counterpart",
            )
            for index in sorted(left.keys() ^ right.keys())
        ]

    def _pair(self, group: CompletionGroup, answers: Sequence[Answer], shard: GroupShard) -> PreferencePair | str:
        return pair_or_reason(
            group,
            answers,
            self._settings.pairing,
            run_id=self._run_id,
            round_id=shard.round_id,
            policy_version=shard.policy_version,
        )

    def _manifest(self, folder: str, shard: GroupShard) -> Path:
        return self._run_dir / folder / f"{shard.chunk_id:05d}.json"

    def _find_answers(self, folder: str, judged: Sequence[GroupShard]) -> list[Answer] | None:
        manifest = self._manifest(folder, judged[0])
        if not manifest.exists():
            return None
        shard = read_json(manifest, VerdictShard)
        if shard.judged != tuple(each.sha256 for each in judged):
            raise IntegrityError(
                f"{manifest} holds answers on other completions than {', '.join(each.path for each in judged)}; "
                "restore those completions, or fork the run from an earlier round"
            )
        return read_verdicts(self._run_dir, shard)

    def _write_answers(self, folder: str, judged: Sequence[GroupShard], answers: Sequence[Answer]) -> None:
        write_verdicts(
            run_dir=self._run_dir, shard_dir=folder, groups=judged, answers=answers, judge_id=self._judge.judge_id
        )
        for reason, count in sorted(reasons_of(answers).items()):
            first = next(answer for answer in answers if answer.reason == reason)
            detail = first.evidence[:200].decode(errors="replace")
            _LOG.warning("%s: %s on %d of %d; first: %s", self._judge.judge_id, reason, count, len(answers), detail)
