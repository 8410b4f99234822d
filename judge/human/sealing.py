"""How a round's counts move and how it ends, within a transaction that others opened.

Who changes a round's labels takes its row last, and only if it is not sealed: then a seal sees all of a label or none
of it. On PostgreSQL locks are taken in one order: annotator, lease, task, round.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, bindparam, select, update

from judge.human.database import TryAgain
from judge.human.events import write_event
from judge.human.resolution import ending, vote_share
from judge.human.schema import labels, rounds, tasks
from judge.human.together import Change, change_together
from judge.human.types import GivenLabel, TaskResult
from judge.human.wire import digest, given_label, parse_rules

_CHANGE = (
    update(rounds)
    .where(rounds.c.id == bindparam("row_id"), rounds.c.state != "sealed")
    .values(
        num_resolved=rounds.c.num_resolved + bindparam("resolved"),
        num_given_up=rounds.c.num_given_up + bindparam("given_up"),
        num_labels=rounds.c.num_labels + bindparam("labelled"),
    )
    .returning(rounds.c.state, rounds.c.num_tasks, rounds.c.num_resolved, rounds.c.num_given_up, rounds.c.rules)
)
_TASKS = (
    select(tasks.c.id, tasks.c.key, tasks.c.prompt_id, tasks.c.a, tasks.c.b)
    .add_columns(tasks.c.outcome, tasks.c.reason, tasks.c.adjudicated_by)
    .where(tasks.c.round_row == bindparam("row_id"), tasks.c.gold.is_(None))
)
_LABELS = (
    select(labels)
    .join(tasks, tasks.c.id == labels.c.task_row)
    .where(tasks.c.round_row == bindparam("row_id"), tasks.c.gold.is_(None))
    .where(labels.c.is_counted, ~labels.c.is_late)
    .order_by(labels.c.id)
)


def change_counts(
    connection: Connection, row_id: int, moved: Mapping[str, int] | None = None, *, along: Sequence[Change] = ()
) -> bool:
    """Move the counts of a round (resolved, given_up, labelled), and seal it where that ends it; says whether it did.

    `along` holds changes that are made with it, see change_together. Raises TryAgain where somebody else sealed the
    round meanwhile.
    """
    by_how_much = {name: (moved or {}).get(name, 0) for name in ("resolved", "given_up", "labelled")}
    found = change_together(connection, [*along, (_CHANGE, {"row_id": row_id, **by_how_much})])
    if not found:
        raise TryAgain(f"round {row_id} was sealed meanwhile")
    row = found[0]
    if row.state != "collecting":
        return False
    by = ending(
        num_tasks=row.num_tasks,
        num_resolved=row.num_resolved,
        num_given_up=row.num_given_up,
        seal_share=parse_rules(row.rules).seal_share,
    )
    if by:
        write_seal(connection, row_id, by)
    return bool(by)


def write_seal(connection: Connection, row_id: int, by: str) -> None:
    """Seal a round whose row this transaction holds: from here on its results, and their hash, stand."""
    results = read_results(connection, row_id)
    now = connection.get_execution_options()["clock"]()
    sha256 = results_sha256(results)
    connection.execute(
        update(rounds).where(rounds.c.id == row_id),
        {"state": "sealed", "sealed_at": now, "sealed_by": by, "sha256": sha256},
    )
    num_open = sum(result.reason == "deadline" for result in results)
    write_event(connection, actor=by, action="seal", round_row=row_id, sha256=sha256, num_unsettled=num_open)


def read_results(connection: Connection, row_id: int) -> list[TaskResult]:
    """What stands on each pair of a round, ordered by key; gold and labels that do not count are left out."""
    given: dict[int, list[GivenLabel]] = defaultdict(list)
    for row in connection.execute(_LABELS, {"row_id": row_id}):
        given[row.task_row].append(given_label(row))
    found = []
    for row in connection.execute(_TASKS, {"row_id": row_id}):
        said = tuple(given.get(row.id, ()))
        settled = row.outcome not in {None, "abstain"}
        by_vote = settled and row.adjudicated_by is None
        found.append(
            TaskResult(
                key=row.key,
                prompt_id=row.prompt_id,
                a=row.a,
                b=row.b,
                outcome=row.outcome if settled else "abstain",
                p_a=vote_share([label.label for label in said]) if by_vote else None,
                reason="" if settled else row.reason or "deadline",
                labels=said,
            )
        )
    return sorted(found, key=lambda result: result.key)


def results_sha256(results: Sequence[TaskResult]) -> str:
    """The hash under which a round is sealed."""
    return digest([{**vars(result), "labels": [vars(label) for label in result.labels]} for result in results])
