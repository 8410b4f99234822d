"""A campaign: plan after plan, each carried out in a folder of its own, with what came of it as rows and a table."""

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tests.chaos.disturbed import Disturbed, Result
from tests.chaos.invariants import digest
from tests.chaos.plans import Plan, Variant
from tests.support.tiny_policy import make_tiny_policy

_PAUSE_S = 5.0


class Campaign:
    """Carries out plans in `folder`; the files of a run that did not hold are left there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._policy = str(make_tiny_policy(folder / "policy", context=128))
        self._undisturbed: dict[str, dict[str, str]] = {}

    def carry_out(self, plan: Plan) -> Result:
        """A run and all that befalls it; once more if the machine stood still meanwhile and deadlines passed."""
        variant = plan.variant
        if variant.exact and variant.name not in self._undisturbed:
            self._undisturbed[variant.name] = self._digest_undisturbed(variant)
        result = self._run(plan)
        if result.why and result.paused_s > _PAUSE_S:
            result = self._run(plan)
        return result

    def _run(self, plan: Plan) -> Result:
        folder = self._folder / f"{plan.number:04d}"
        shutil.rmtree(folder, ignore_errors=True)
        with Disturbed(plan, folder, policy=self._policy) as run:
            result = run.to_the_end(self._undisturbed.get(plan.variant.name))
        if not result.why:
            shutil.rmtree(folder)
        return result

    def _digest_undisturbed(self, variant: Variant) -> dict[str, str]:
        folder = self._folder / f"undisturbed-{len(self._undisturbed)}"
        plan = Plan(seed=0, number=0, variant=variant, injections=())
        with Disturbed(plan, folder, policy=self._policy) as run:
            result = run.to_the_end(None)
            assert not result.why, f"the undisturbed run of {variant.name!r}: {result.why}"
            found = digest(run.root, without_evidence=variant.judge == "human")
        shutil.rmtree(folder)
        return found


def rows_of(result: Result) -> list[dict[str, Any]]:
    """One object an injection, for JSON."""
    return [
        {
            "run": result.plan.number,
            "variant": result.plan.variant.name,
            "kind": outcome.injection.kind,
            "moment": str(outcome.injection.moment),
            "what": outcome.struck.what,
            "went": outcome.went,
            "named_after_s": None if outcome.named_s is None else round(outcome.named_s - outcome.at_s, 1),
            "passed": not result.why,
            "why": result.why,
        }
        for outcome in result.outcomes
    ]


def line_of(row: dict[str, Any]) -> str:
    """A row for the person who watches."""
    verdict = "passed" if row["passed"] else "FAILED"
    what = f"{row['kind']} ({row['what']})"
    return f"{verdict}  run {row['run']:3d}  {row['moment']:28s} {what:60s} {row['went']}"


def table_of(rows: Iterable[dict[str, Any]]) -> list[str]:
    """How many injections of each kind were made, held, and let the run go on."""
    made, passed, went_on = Counter[str](), Counter[str](), Counter[str]()
    for row in rows:
        made[row["kind"]] += 1
        passed[row["kind"]] += row["passed"]
        went_on[row["kind"]] += row["went"] == "went on"
    lines = [f"{'kind':28s} {'made':>5s} {'passed':>7s} {'went on':>8s}"]
    lines += [f"{kind:28s} {made[kind]:5d} {passed[kind]:7d} {went_on[kind]:8d}" for kind in sorted(made)]
    return [*lines, f"{'all':28s} {made.total():5d} {passed.total():7d} {went_on.total():8d}"]


def read_rows(path: Path) -> list[dict[str, Any]]:
    """What was written so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def append_rows(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
