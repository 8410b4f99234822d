"""A run directory as a finished run leaves it, written by hand: two rounds, whose answers and names are hostile."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from orchestrator.config import RunConfig
from orchestrator.journal import DrawnPrompts
from orchestrator.rundir import RunDir, open_run
from orchestrator.types import Interval, RoundRecord
from rollout.shards import write_json
from tests.support.tiny_config import tiny_config
from tests.support.tiny_groups import make_group, make_shard
from tests.support.tiny_pairs import make_pair, write_pair_shard
from tests.support.told_events import START, told_events, told_record

KEPT = ("stage", "generated", "shard_judged", "judged", "step", "sync")


def told_config(**changes) -> RunConfig:
    return tiny_config(Path("/no/policy"), **changes)


def write_told_run(root: Path, *, answer: str = "an answer", num_rounds: int = 2) -> RunDir:
    """Rounds 0 and 1 of 100 seconds each, done; answer: what the policy writes, and what is chosen."""
    run = open_run(root, told_config(num_rounds=num_rounds))
    for round_id in range(2):
        drawn = DrawnPrompts(prompt_ids=(), prompt_set="p")
        write_json(root / run.round_dir(round_id) / "drawn.json", drawn, DrawnPrompts)
        record = told_record(round_id)
        prompt = np.arange(6, 9)
        pair = make_pair("p0", prompt, prompt, prompt, round_id=round_id, chosen=written(answer), rejected="no")
        scores = record.scores
        assert scores is not None
        gold = replace(scores.standings[0], judge="gold", win_rate=rate(0.4))
        told = replace(
            record,
            shards=(write_pair_shard(root, [pair], round_id=round_id),),
            scores=replace(scores, standings=(*scores.standings, gold)),
        )
        write_json(root / run.round_dir(round_id) / "record.json", told, RoundRecord)
        folder = f"{run.round_dir(round_id)}/evaluation"
        make_shard(root, [make_group([written(answer)])], folder=f"{folder}/groups", round_id=round_id)
    make_shard(root, [make_group(["the base's"])], folder=f"{run.round_dir(0)}/evaluation/base")
    lines = [line for round_id in range(2) for line in told_events(round_id) if line["kind"] in KEPT]
    lines.append({"kind": "attempt", "round": None, "stage": "", "state": "failed", "reason": answer, "time": START})
    (root / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def rate(mean: float) -> Interval:
    return Interval(mean=mean, low=mean - 0.1, high=mean + 0.1, num_prompts=50)


def written(text: str) -> str:
    """The text as an Arrow file can hold it, which knows no halves of surrogate pairs."""
    return text.encode(errors="replace").decode()
