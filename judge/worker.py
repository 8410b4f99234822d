"""Judges chunks of completions: answers first, durably, and then the pairs that follow from them."""

import asyncio
import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from judge.backend import build
from judge.config import JudgeConfig
from judge.pairing import comparisons, reasons_of
from judge.pairing_config import PairingConfig
from judge.pairs import pairs_or_reason
from judge.protocol import Batch, Context, Judge, Question, Scorer
from judge.shards import read_verdicts, write_pairs, write_verdicts
from judge.types import Answer, JudgeReport, PairShard, PreferencePair, Purpose, Verdict, VerdictShard
from rollout.errors import IntegrityError
from rollout.shards import read_groups, read_json
from rollout.types import CompletionGroup, GroupShard

_LOG = logging.getLogger(__name__)


class JudgeWorker:
    """Turns group shards into verdict and pair shards under run_dir; whatever is finished there is not redone."""

    def __init__(
        self,
        *,
        settings: JudgeConfig,
        run_dir: Path,
        run_id: str,
        name: str = "judge",
        actor: int = 0,
        num_actors: int = 1,
        command: str = "",
    ) -> None:
        self._run_dir = run_dir
        self._run_id = run_id
        self._context = Context(
            store_dir=run_dir / "verdict_store",
            salt=run_id,
            name=name,
            actor=actor,
            num_actors=num_actors,
            command=command,
        )
        self._settings = settings
        self._judge: Judge = build(settings, self._context)
        self._started = False

    async def start(self) -> str:
        """Get the judge ready; its id, which names the judge, its source text and its settings.

        Raises UsageError if it cannot work as configured.
        """
        if not self._started:
            await self._judge.start()
            self._started = True
        return self._judge.judge_id

    async def configure(self, settings: JudgeConfig) -> None:
        """Judge what comes next by these settings. Raises UsageError if the judge cannot work."""
        changed = _without_pairing(settings) != _without_pairing(self._settings)
        if changed:
            judge = build(settings, self._context)
            await self.close()
            self._judge = judge
        self._settings = settings
        await self.start()

    async def close(self) -> None:
        """Let the judge's connections and processes go."""
        if self._started:
            await self._judge.close()
            self._started = False

    @property
    def judge_id(self) -> str:
        """Names the judge, its source text and its settings."""
        return self._judge.judge_id

    def report(self) -> JudgeReport:
        """What the judge has done since the last report."""
        return self._judge.report()

    def waiting_for(self) -> str:
        """What the judge waits for, in words, where that takes longer than a computer does."""
        return self._judge.waiting_for()

    async def build(self, shard: GroupShard, *, verdict_dir: str, pair_dir: str, num_chunks: int = 1) -> PairShard:
        """The pairs of one chunk of the round's num_chunks, written under pair_dir after the answers under verdict_dir.

        Every prompt of the chunk has its pairs or stands under exactly one reason. Raises IntegrityError if answers
        are there that belong to other completions.
        """
        manifest = self._manifest(pair_dir, shard)
        if manifest.exists():
            return read_json(manifest, PairShard)
        groups = await asyncio.to_thread(read_groups, self._run_dir, shard)
        found = self._find_answers(verdict_dir, [shard])
        if found is None:
            found = await self._answers(groups, _batch(shard, "pairs", num_chunks))
            self._write_answers(verdict_dir, [shard], found)
        by_prompt: dict[str, list[Answer]] = {group.prompt.prompt_id: [] for group in groups}
        for answer in found:
            by_prompt[answer.prompt_id].append(answer)
        pairs: list[PreferencePair] = []
        rejected = defaultdict(list, {reason: list(ids) for reason, ids in shard.rejected.items()})
        filtered: Counter[str] = Counter()
        for group in groups:
            outcome = self._pairs(group, by_prompt[group.prompt.prompt_id], shard, filtered)
            if isinstance(outcome, str):
                rejected[outcome].append(group.prompt.prompt_id)
            else:
                pairs += outcome
        return write_pairs(
            run_dir=self._run_dir,
            shard_dir=pair_dir,
            groups=shard,
            pairs=pairs,
            rejected={reason: tuple(ids) for reason, ids in rejected.items()},
            num_abstained=reasons_of(found),
            num_filtered=filtered,
        )

    async def compare(
        self,
        candidate: GroupShard,
        baseline: GroupShard,
        *,
        out_dir: str,
        purpose: Purpose = "held_out",
        num_chunks: int = 1,
    ) -> list[Verdict]:
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
            batch = _batch(candidate, purpose, num_chunks)
            found = list(await self._against([(ours.get(i), theirs.get(i)) for i in prompt_ids], batch))
            self._write_answers(out_dir, shards, found)
        return [answer for answer in found if isinstance(answer, Verdict)]

    async def answer(self, shard: GroupShard, *, out_dir: str) -> list[Answer]:
        """Every answer on a chunk whose completions become no pairs (canaries), written and read back like verdicts."""
        found = self._find_answers(out_dir, [shard])
        if found is None:
            found = await self._answers(read_groups(self._run_dir, shard))
            self._write_answers(out_dir, [shard], found)
        return found

    async def _answers(self, groups: Sequence[CompletionGroup], batch: Batch | None = None) -> list[Answer]:
        await self.start()
        if isinstance(self._judge, Scorer):
            return list(chain.from_iterable(await self._judge.score(groups)))
        wanted = [tuple(comparisons(group, self._settings)) for group in groups]
        questions = [Question(group=g, wanted=w, batch=batch) for g, w in zip(groups, wanted, strict=True)]
        return list(chain.from_iterable(await self._judged(questions, batch)))

    async def _judged(self, questions: Sequence[Question], batch: Batch | None) -> list[list[Verdict]]:
        verdicts = await self._judge.judge(questions)
        if batch is not None:
            await self._judge.batch_done(batch)
        return verdicts

    async def _against(
        self, sides: Sequence[tuple[CompletionGroup | None, CompletionGroup | None]], batch: Batch
    ) -> Sequence[Verdict]:
        await self.start()
        matched = [_matched(ours, theirs) for ours, theirs in sides]
        verdicts = await self._judged([replace(question, batch=batch) for question, _, _ in matched], batch)
        found: list[Verdict] = []
        for given, (question, common, alone) in zip(verdicts, matched, strict=True):
            found += [replace(each, a=common[each.a], b=common[each.a]) for each in given]
            found += [
                Verdict(
                    prompt_id=question.group.prompt.prompt_id,
                    a=index,
                    b=index,
                    outcome="abstain",
                    p_a=None,
                    judge_id=self._judge.judge_id,
                    source=self._judge.source,
                    reason="no_counterpart",
                )
                for index in alone
            ]
        return found

    def _pairs(
        self, group: CompletionGroup, answers: Sequence[Answer], shard: GroupShard, filtered: Counter[str]
    ) -> list[PreferencePair] | str:
        return pairs_or_reason(
            group,
            answers,
            self._settings.pairing,
            run_id=self._run_id,
            round_id=shard.round_id,
            policy_version=shard.policy_version,
            num_filtered=filtered,
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


def _matched(
    ours: CompletionGroup | None, theirs: CompletionGroup | None
) -> tuple[Question, Sequence[int], Sequence[int]]:
    """Both sides in one group with indices of its own, so that any judge can compare across two policies.

    Returns the question, the index that both sides know each place by, and the indices without a counterpart.
    """
    left = {completion.index: completion for completion in ours.completions} if ours else {}
    right = {completion.index: completion for completion in theirs.completions} if theirs else {}
    group = ours or theirs
    assert group is not None
    common = sorted(left.keys() & right.keys())
    both = [*(left[index] for index in common), *(right[index] for index in common)]
    joint = replace(group, completions=tuple(replace(one, index=place) for place, one in enumerate(both)))
    wanted = tuple((place, place + len(common)) for place in range(len(common)))
    return Question(group=joint, wanted=wanted), common, sorted(left.keys() ^ right.keys())


def _batch(shard: GroupShard, purpose: Purpose, num_chunks: int) -> Batch:
    return Batch(round_id=shard.round_id, purpose=purpose, chunk_id=shard.chunk_id, num_chunks=num_chunks)


def _without_pairing(settings: JudgeConfig) -> JudgeConfig:
    return settings.model_copy(update={"pairing": PairingConfig()})
