"""Reading a run as a person would: its pairs, and answers before and after."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.text import Text

from judge.shards import read_pairs, read_verdicts
from judge.types import Answer, PreferencePair, Score, VerdictShard
from orchestrator.journal import Journal
from orchestrator.types import RoundRecord
from rollout.errors import UsageError
from rollout.shards import find_shards, read_groups
from rollout.types import CompletionGroup, GroupShard


def before_and_after(journal: Journal, *, num: int) -> list[tuple[str, str, str]]:
    """The same held-out prompts with an answer of the base and one of the newest evaluated policy."""
    evaluated = [record.round_id for record in journal.records() if record.scores and record.scores.win_rate]
    if not evaluated:
        return []
    run = journal.run
    before = {g.prompt.prompt_id: g for g in _groups(journal, f"{run.round_dir(0)}/evaluation/base")}
    rows: list[tuple[str, str, str]] = []
    for group in _groups(journal, f"{run.round_dir(evaluated[-1])}/evaluation/groups"):
        base = before.get(group.prompt.prompt_id)
        if base is not None and len(rows) < num:
            question = group.prompt.messages[-1]["content"]
            rows.append((question, base.completions[0].text, group.completions[0].text))
    return rows


def show_pairs(journal: Journal, round_id: int, *, num: int) -> RenderableType:
    """The first pairs of a round, chosen beside rejected, and what was rejected and why."""
    record = _opened(journal, round_id)
    pairs: list[PreferencePair] = []
    for shard in record.shards or ():
        if len(pairs) < num:
            pairs += read_pairs(journal.run.root, shard)
    blocks: list[RenderableType] = [_pair(pair) for pair in pairs[:num]]
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(record.num_rejected.items())) or "none"
    blocks.append(Text(f"round {round_id}: {_rows(record)} of {record.num_prompts} prompts; rejected: {reasons}"))
    return Group(*blocks)


def show_prompt(journal: Journal, round_id: int, prompt_id: str) -> RenderableType:
    """Everything about one prompt of a round: completions, verdicts, the pair or why there is none."""
    record = _opened(journal, round_id)
    folder = journal.run.round_dir(round_id)
    found = [g for g in _groups(journal, f"{folder}/groups") if g.prompt.prompt_id.startswith(prompt_id)]
    if not found:
        raise UsageError(f"round {round_id} has no prompt {prompt_id}; `rondo show` without --prompt prints ids")
    blocks: list[RenderableType] = []
    answers = [
        answer
        for shard in find_shards(journal.run.root, f"{folder}/verdicts", VerdictShard)
        for answer in read_verdicts(journal.run.root, shard)
    ]
    for group in found:
        name = group.prompt.prompt_id
        blocks.append(Text(f"{name}  {group.prompt.messages[-1]['content']}", style="bold"))
        for one in group.completions:
            blocks.append(Text(f"  [{one.index}] {one.finish_reason}, {len(one.token_ids)} tokens: {one.text}"))
        blocks += [Text(f"  {_verdict(answer)}", style="dim") for answer in answers if answer.prompt_id == name]
        for shard in record.shards or ():
            reasons = [reason for reason, ids in shard.rejected.items() if name in ids]
            blocks += [Text(f"  no pair: {reason}", style="yellow") for reason in reasons]
    return Group(*blocks)


def _rows(record: RoundRecord) -> str:
    beside = f" and {record.num_unpaired} rows beside them" if record.num_unpaired else ""
    return f"{record.num_pairs} pairs{beside}"


def _verdict(answer: Answer) -> str:
    why = f" ({answer.reason})" if answer.reason else ""
    if isinstance(answer, Score):
        return f"[{answer.index}] scored {'no answer' if answer.value is None else format(answer.value, '.4g')}{why}"
    return f"[{answer.a}] against [{answer.b}]: {answer.outcome}{why}"


def _pair(pair: PreferencePair) -> Panel:
    body = Text()
    for message in pair.prompt:
        body.append(f"{message['role']}: ", style="dim").append(f"{message['content']}\n")
    for side, text, style in (("chosen", pair.chosen, "green"), ("rejected", pair.rejected, "red")):
        if text is not None:
            body.append(f"{side:<10}", style=style).append(f"{text.strip()}\n")
    body.rstrip()
    margin = "" if pair.margin is None else f"  margin {pair.margin:.3g}"
    return Panel(body, title=f"{pair.prompt_id}{margin}", title_align="left", border_style="dim")


def _groups(journal: Journal, shard_dir: str) -> Iterator[CompletionGroup]:
    for shard in find_shards(journal.run.root, shard_dir, GroupShard):
        yield from read_groups(journal.run.root, shard)


def _opened(journal: Journal, round_id: int) -> RoundRecord:
    opened = [record.round_id for record in journal.records()]
    if round_id not in opened:
        raise UsageError(f"round {round_id} has not been opened; rounds {opened} have")
    return journal.record(round_id)
