"""`make chaos`: faults at seeded moments of real runs, each of which must end as if nobody had disturbed it.

CHAOS_SEED and CHAOS_NUM say which and how many. Every run that was carried out stands in tests/output/chaos-SEED.jsonl,
and the same campaign on the same commit goes on from there.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign, append_rows, line_of, read_rows, rows_of, table_of
from tests.chaos.machines import SmallDisk
from tests.chaos.plans import ON_VLLM, VARIANTS, Variant, plan
from tests.support.processes import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.timeout(0)]


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    return Campaign(tmp_path_factory.mktemp("chaos"))


def test_every_run_ends_as_if_undisturbed(campaign, tmp_path):
    variants = tuple(one for one in VARIANTS if not one.small_disk or SmallDisk.is_possible(tmp_path / "disk"))
    carry_out(campaign, variants, num=int(os.environ.get("CHAOS_NUM", "6")), name="chaos")


@pytest.mark.vllm
def test_every_run_on_vllm_balances_its_books(campaign):
    carry_out(campaign, (ON_VLLM,), num=int(os.environ.get("CHAOS_NUM_VLLM", "2")), name="chaos-vllm")


def carry_out(campaign: Campaign, variants: tuple[Variant, ...], *, num: int, name: str) -> None:
    """Runs until `num` injections were made, those of earlier sessions included; fails if any did not hold."""
    seed = int(os.environ.get("CHAOS_SEED", "17"))
    file = ROOT / f"tests/output/{name}-{seed}.jsonl"
    rows = earlier_rows(file)
    number = max((row["run"] for row in rows), default=-1) + 1
    while len(rows) < num:
        made = rows_of(campaign.carry_out(plan(seed, number, variants, at_most=num - len(rows))))
        assert made, f"run {number} had ended before anything could strike it"
        for row in made:
            print(line_of(row), *([f"\n        {row['why']}"] if row["why"] else []), flush=True)
        append_rows(file, made)
        rows += made
        number += 1
    print("\n".join(["", *table_of(rows)]), flush=True)
    failed = {row["run"]: row["why"] for row in rows if not row["passed"]}
    assert not failed, f"seed {seed}: {failed}"


def earlier_rows(file: Path) -> list[dict]:
    """Rows of this commit; those of another one are put aside."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], check=True, capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    header, *rows = read_rows(file) or [{}]
    if header.get("commit") == commit:
        return rows
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"commit": commit}) + "\n")
    return []
