"""People as a judge: pairs go into the queue, and their round's seal brings the verdicts."""

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from judge.human.config import HumanSettings
from judge.human.database import Database
from judge.human.gold import read_gold
from judge.human.rounds import Rounds
from judge.human.types import NewTask, RoundKey, RoundView, Rules, TaskResult
from judge.pairing import lead_of
from judge.protocol import Batch, Context, Judge, Question, Scorer
from judge.types import JudgeReport, Source, Verdict
from rollout.errors import Stopped, UsageError
from rollout.shards import hash_json

_POLL_S = 0.5
_UNCHANGED = ("queue_url", "while_waiting", "webhook", "page", "timeout_s")


class HumanJudge(Judge):
    """Queues every comparison of a round, waits until the round is sealed, and takes over what people said.

    A comparison that people did not settle is an abstention with the reason deadline, no_majority or all_skipped, which
    a fallback takes. Two answers of the same text are an abstention (identical) that nobody is asked about.

    report() counts labelled, unsettled and labels, and says where a round ended with pairs that nobody settled.
    """

    source: Source = "human"
    keeps_partial = True

    def __init__(self, config: HumanSettings, context: Context, rank: Judge | None = None) -> None:
        self._config, self._context, self._rank = config, context, rank
        settings = config.model_dump(mode="json", exclude=set(_UNCHANGED) | {"rank_by"})
        self.judge_id = f"human@{hash_json(settings)[:8]}"
        self._database: Database | None = None
        self._rounds: Rounds | None = None
        self._rules: Rules | None = None
        self._gold: list[NewTask] = []
        self._queued: set[Batch] = set()
        self._sealing: dict[int, asyncio.Task[dict[str, TaskResult]]] = {}
        self._standing: dict[int, RoundView] = {}
        self._counts: Counter[str] = Counter()
        self._notices: list[str] = []

    async def start(self) -> None:
        """See Judge.start. Raises UsageError if the queue's database cannot be used."""
        self._database = database = Database(queue_url(self._config, self._context.run_dir))
        await asyncio.to_thread(database.upgrade)
        self._rounds = Rounds(database)
        self._rules = rules_of(self._config, self._context.command)
        if self._config.gold is not None:
            self._gold = await asyncio.to_thread(read_gold, self._context.run_dir)
        if self._rank is not None:
            await self._rank.start()

    async def close(self) -> None:
        """See Judge.close."""
        if self._database is not None:
            self._database.close()
        if self._rank is not None:
            await self._rank.close()

    async def judge(self, questions: Sequence[Question]) -> list[list[Verdict]]:
        """See Judge.judge. Raises Stopped where the run is not to wait for people."""
        if not questions:
            return []
        batch = questions[0].batch
        assert batch is not None, "people are asked by rounds"
        tasks = await self._tasks(questions)
        round_ = await self._submit(batch, [task for task in tasks.values() if task is not None])
        results = await self._results(round_)
        found = [
            [self._verdict(question, pair, tasks[place, pair], results) for pair in question.wanted]
            for place, question in enumerate(questions)
        ]
        outcomes = Counter(verdict.outcome == "abstain" for of_question in found for verdict in of_question)
        self._counts.update(labelled=outcomes[False], unsettled=outcomes[True])
        return found

    async def batch_done(self, batch: Batch) -> None:
        """See Judge.batch_done: a chunk without a comparison for people counts as queued, too."""
        if batch not in self._queued:
            await self._submit(batch, [])

    def waiting_for(self) -> str:
        """See Judge.waiting_for."""
        waiting = [view for view in self._standing.values() if view.state != "sealed"]
        return "; ".join(_progress_of(view) for view in waiting)

    def report(self) -> JudgeReport:
        """See Judge.report."""
        report = JudgeReport(counts=dict(+self._counts), notices=tuple(self._notices))
        self._counts.clear()
        self._notices.clear()
        return report

    async def _tasks(self, questions: Sequence[Question]) -> dict[tuple[int, tuple[int, int]], NewTask | None]:
        """The comparison of each question as a task; None where its two answers are the same text."""
        priorities = await self._priorities(questions)
        found: dict[tuple[int, tuple[int, int]], NewTask | None] = {}
        for place, question in enumerate(questions):
            texts = {one.index: one.text for one in question.group.completions}
            for pair in question.wanted:
                a, b = pair
                task = new_task(question, pair, priorities.get((place, pair), 0.0))
                found[place, pair] = None if texts[a] == texts[b] else task
        return found

    async def _priorities(self, questions: Sequence[Question]) -> dict[tuple[int, tuple[int, int]], float]:
        """How little the ranking judge can tell two answers apart: 0 where it cannot, and less where it can."""
        found: dict[tuple[int, tuple[int, int]], float] = {}
        if isinstance(self._rank, Scorer):
            scored = await self._rank.score([question.group for question in questions])
            for place, (question, scores) in enumerate(zip(questions, scored, strict=True)):
                values = {score.index: score.value for score in scores}
                for a, b in question.wanted:
                    left, right = values[a], values[b]
                    found[place, (a, b)] = 0.0 if left is None or right is None else -abs(left - right)
        elif self._rank is not None:
            given = await self._rank.judge(questions)
            for place, (question, verdicts) in enumerate(zip(questions, given, strict=True)):
                for pair, verdict in zip(question.wanted, verdicts, strict=True):
                    found[place, pair] = -abs(lead_of(verdict))
        return found

    async def _submit(self, batch: Batch, tasks: Sequence[NewTask]) -> RoundView:
        rounds, rules = self._rounds, self._rules
        assert rounds is not None
        assert rules is not None
        self._queued.add(batch)
        key = RoundKey(run_id=self._context.salt, round_id=batch.round_id, purpose=batch.purpose)
        gold = self._gold if batch.chunk_id == 0 and batch.purpose == "pairs" and tasks else []
        name = self._context.run_dir.name
        view = await asyncio.to_thread(rounds.open, key, name, rules, batch.num_chunks)
        await asyncio.to_thread(rounds.submit_chunk, view.row_id, batch.chunk_id, [*tasks, *gold])
        return view

    async def _results(self, round_: RoundView) -> dict[str, TaskResult]:
        """What people said on every pair of the round, once it is sealed; all chunks wait together."""
        if round_.row_id not in self._sealing:
            self._sealing[round_.row_id] = asyncio.get_running_loop().create_task(self._sealed(round_))
        return await asyncio.shield(self._sealing[round_.row_id])

    async def _sealed(self, round_: RoundView) -> dict[str, TaskResult]:
        rounds = self._rounds
        assert rounds is not None
        try:
            view = await self._until_sealed(rounds, round_)
            if view.num_resolved < view.num_tasks:
                self._notices.append(_end_of(view))
            self._counts["labels"] += view.num_labels
            return {result.key: result for result in await asyncio.to_thread(rounds.results, view.row_id)}
        except BaseException:
            del self._sealing[round_.row_id]  # whoever asks again waits again
            raise

    async def _until_sealed(self, rounds: Rounds, round_: RoundView) -> RoundView:
        while True:
            await asyncio.to_thread(rounds.seal_due)
            view = await asyncio.to_thread(rounds.view, round_.row_id)
            self._standing[view.row_id] = view
            if view.state == "sealed":
                return view
            if self._config.while_waiting == "release" and view.state == "collecting":
                raise Stopped(
                    f"{_progress_of(view)}; the run has let its resources go (judge.while_waiting: release). "
                    f"Once the round is sealed, resume with: {self._context.command or 'the same command'}"
                )
            await asyncio.sleep(_POLL_S)

    def _verdict(
        self, question: Question, pair: tuple[int, int], task: NewTask | None, results: dict[str, TaskResult]
    ) -> Verdict:
        result = None if task is None else results[task.key]
        labels = [] if result is None else [asdict(replace(label, at=0.0, seconds=0.0)) for label in result.labels]
        return Verdict(
            prompt_id=question.group.prompt.prompt_id,
            a=pair[0],
            b=pair[1],
            outcome="abstain" if result is None else result.outcome,
            p_a=None if result is None else result.p_a,
            judge_id=self.judge_id,
            source=self.source,
            reason="identical" if result is None else result.reason,
            evidence=json.dumps(labels, sort_keys=True).encode() if labels else b"",
        )


def build_human(config: HumanSettings, context: Context, rank: Judge | None = None) -> Judge:
    """People as a judge, and the judge that ranks pairs by what a label would tell, where there is one."""
    return HumanJudge(config, context, rank)


def queue_url(config: HumanSettings, run_dir: Path) -> str:
    """Where the queue is: as configured, or a file of the run's own."""
    return config.queue_url or f"sqlite:///{run_dir.resolve()}/labels/queue.sqlite"


def rules_of(config: HumanSettings, command: str = "") -> Rules:
    """What a round is opened with. Raises UsageError if the guidelines cannot be read."""
    gold = config.gold
    return Rules(
        **config.rules(),
        gold_share=gold.share if gold else 0.0,
        gold_min_accuracy=gold.min_accuracy if gold else 0.0,
        gold_min_answers=gold.min_answers if gold else 1,
        criteria=tuple((criterion.name, criterion.question) for criterion in config.criteria),
        guidelines=read_guidelines(config),
        webhook=config.webhook or "",
        resume=command,
    )


def read_guidelines(config: HumanSettings) -> str:
    """The text of the guidelines, empty where there are none. Raises UsageError if the file cannot be read."""
    if config.guidelines is None:
        return ""
    try:
        return Path(config.guidelines).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"judge.guidelines {config.guidelines} cannot be read ({error}); give a text file") from error


def new_task(question: Question, pair: tuple[int, int], priority: float) -> NewTask:
    """A comparison as a task, under a key that names its place and its contents."""
    group = question.group
    texts = {one.index: one.text for one in group.completions}
    a, b = pair
    contents = [group.prompt.prompt_id, a, b, list(group.prompt.messages), texts[a], texts[b]]
    return NewTask(
        key=hash_json(contents),
        prompt_id=group.prompt.prompt_id,
        a=a,
        b=b,
        messages=tuple(group.prompt.messages),
        text_a=texts[a],
        text_b=texts[b],
        priority=priority,
    )


def _progress_of(view: RoundView) -> str:
    what = "" if view.key.purpose == "pairs" else " (held-out answers)"
    return f"round {view.key.round_id}{what} waits for people: {view.num_resolved} of {view.num_tasks} pairs settled"


def _end_of(view: RoundView) -> str:
    return (
        f"round {view.key.round_id} was sealed by {view.sealed_by}: {view.num_resolved} of {view.num_tasks} pairs "
        f"settled by {view.num_labels} labels"
    )
