"""`rondo judge` and `rondo judge audit`: the configured judge on completions that exist already."""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from judge.config import JudgeConfig, people_of
from judge.types import Answer, Outcome, PairShard, Verdict
from orchestrator.canaries import preferred
from orchestrator.cluster.judge import RayJudge
from orchestrator.cluster.session import start_ray, stop_ray
from orchestrator.config import ClusterConfig
from orchestrator.given import LabelledPair, find_given, read_given, read_labels, write_given
from orchestrator.judge_section import load_judge
from orchestrator.observer import Observer
from orchestrator.rundir import RunDir
from orchestrator.scoreboard.agreement import LabelledVerdict, audit
from rollout.errors import UsageError
from rollout.shards import find_shards, hash_json
from rollout.types import CompletionGroup, GroupShard

_OPPOSITE: dict[Outcome, Outcome] = {"a": "b", "b": "a"}


def judge_given(config: Path, groups: str, out: Path, overrides: list[str] | None = None) -> dict[str, Any]:
    """Judge the completions of a file, or of a round's group shards, and write the same shards as a run does.

    What is finished under `out` is not judged again. Raises UsageError before anything starts.
    """
    settings, _ = load_judge(config, overrides)
    _refuse_people(settings, config)
    unusable: Counter[str] = Counter()
    shards = find_given(Path(groups))
    given: list[CompletionGroup] = []
    if shards is None:
        given, unusable = read_given(groups)
    folder = f"{RunDir.round_dir(0)}/groups"
    with _judging(settings, out) as (judge, _):
        if shards is None:
            shards = find_shards(out, folder, GroupShard) or write_given(out, folder, given)
        pairs = judge.build(iter(shards), round_id=0, num_chunks=len(shards))
    return {"out": str(out), "unusable": dict(unusable), **_counts(pairs), "counts": judge.totals}


def audit_judge(config: Path, labels: str, overrides: list[str] | None = None) -> dict[str, Any]:
    """Ask the judge about pairs that one has labelled, both ways round, and hold its verdicts against the labels."""
    settings, tree = load_judge(config, overrides)
    _refuse_people(settings, config)
    pairs, unusable = read_labels(labels)
    with tempfile.TemporaryDirectory() as folder, _judging(settings, Path(folder)) as (judge, root):
        straight = _ask(judge, root, "straight", [pair.group for pair in pairs])
        spent = dict(judge.totals)
        swapped = _ask(judge, root, "swapped", [_swap(pair.group) for pair in pairs])
        judge_id = judge.judge_id
    rows = [_row(pair, straight, swapped) for pair in pairs]
    return {
        "judge_id": judge_id,
        "num_pairs": len(pairs),
        "unusable": dict(unusable),
        **asdict(audit(rows)),
        "abstained_by_reason": dict(
            Counter(a.reason for each in straight.values() for a in each if _outcome([a]) == "abstain")
        ),
        "per_comparison": {name: value / len(pairs) for name, value in sorted(spent.items())},
        "per_round": _cost_of_round(settings, tree, spent, len(pairs)),
    }


def _refuse_people(settings: JudgeConfig, config: Path) -> None:
    if people_of(settings) is not None:
        raise UsageError(
            f"{config} asks people, who label the rounds of a run; use another judge here, or `rondo run` and "
            "`rondo label`"
        )


@contextmanager
def _judging(settings: JudgeConfig, out: Path) -> Iterator[tuple[RayJudge, Path]]:
    root = out.resolve()
    root.mkdir(parents=True, exist_ok=True)
    observer = Observer(root, console=Console(stderr=True))
    start_ray(ClusterConfig(num_cpus=max(1, round(settings.num_actors * settings.cpus_per_actor))))
    try:
        with observer.showing(), observer.stage(None, "judge"):
            judge = RayJudge(root, hash_json(settings.model_dump(mode="json"))[:16], settings, observer)
            judge.start()
            yield judge, root
    finally:
        stop_ray()


def _ask(judge: RayJudge, root: Path, name: str, groups: Sequence[CompletionGroup]) -> dict[str, list[Answer]]:
    found: dict[str, list[Answer]] = defaultdict(list)
    for shard in write_given(root, f"{name}/groups", groups):
        for answer in judge.answer(shard, out_dir=f"{name}/verdicts"):
            found[answer.prompt_id].append(answer)
    judge.take_report(None)
    return found


def _swap(group: CompletionGroup) -> CompletionGroup:
    first, second = group.completions
    return replace(group, completions=(replace(second, index=0), replace(first, index=1)))


def _row(pair: LabelledPair, straight: dict[str, list[Answer]], swapped: dict[str, list[Answer]]) -> LabelledVerdict:
    key = pair.group.prompt.prompt_id
    one, other = straight.get(key, []), swapped.get(key, [])
    outcome, back = _outcome(one), _outcome(other)
    first, second = pair.group.completions
    verdict = next((answer for answer in one if isinstance(answer, Verdict)), None)
    in_order = bool(verdict)  # a scorer sees one answer at a time: it knows no order
    return LabelledVerdict(
        label=pair.label,
        outcome=outcome,
        p_a=verdict.p_a if verdict else None,
        shown_ab=outcome if in_order else None,
        shown_ba=_OPPOSITE.get(back, back) if in_order else None,
        len_a=len(first.text),
        len_b=len(second.text),
    )


def _outcome(answers: Sequence[Answer]) -> Outcome:
    """What answers on two completions come to."""
    return preferred(answers) or "abstain"


def _cost_of_round(
    settings: JudgeConfig, tree: dict[str, Any], spent: dict[str, float], num_pairs: int
) -> dict[str, float]:
    """What a round of the configured run would take, from what these comparisons took."""
    prompts = tree.get("prompts") or {}
    num_prompts, size = prompts.get("num_per_round"), (tree.get("rollout") or {}).get("num_completions", 4)
    if not num_prompts:
        return {}
    pairwise = getattr(settings, "style", "pointwise") == "pairwise" or settings.kind in ("preference_model",)
    every = size * (size - 1) // 2
    wanted = {"all": every, "anchor": size - 1, "random_k": min(settings.num_comparisons or every, every)}
    # A pointwise judge was asked about two answers a pair.
    share = wanted[settings.comparisons] if pairwise else size / 2
    return {name: value / num_pairs * num_prompts * share for name, value in sorted(spent.items())}


def _counts(pairs: Sequence[PairShard]) -> dict[str, Any]:
    rejected: Counter[str] = Counter()
    abstained: Counter[str] = Counter()
    for shard in pairs:
        rejected.update({reason: len(ids) for reason, ids in shard.rejected.items()})
        abstained.update(shard.num_abstained)
    return {
        "num_prompts": sum(shard.num_prompts for shard in pairs),
        "num_pairs": sum(shard.num_pairs for shard in pairs),
        "num_unpaired": sum(shard.num_unpaired for shard in pairs),
        "num_rejected": dict(rejected),
        "num_abstained": dict(abstained),
    }
