"""Dockerfiles, the dashboard, the alerts and the runbook."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from orchestrator.changes import flatten
from orchestrator.config import parse_config
from tests.support.deployed import DEPLOY, alerts, dashboard, expressions

ROOT = Path(__file__).parents[2]
DOCKERFILES = ["docker/Dockerfile.cpu", "docker/Dockerfile.gpu"]
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed")


def instructions(path):
    """(instruction, rest) of a Dockerfile, continued lines joined and comments dropped."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / path).read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("path", DOCKERFILES)
def test_images_are_built_in_stages_from_pinned_public_ones(path):
    bases = [rest.split()[0] for name, rest in instructions(path) if name == "FROM"]
    assert len(bases) == 2
    for base in bases:
        image, _, tag = base.partition(":")
        assert re.search(r"\d+\.\d+\.\d+", tag), f"{base} is not pinned"
        assert "." not in image.split("/")[0], "a registry of one's own"


@pytest.mark.parametrize("path", DOCKERFILES)
def test_images_run_as_nobody_special(path):
    last_stage = instructions(path)[[name for name, _ in instructions(path)].index("FROM", 1) :]
    users = [rest for name, rest in last_stage if name == "USER"]
    assert users == ["1000:1000"]
    assert "RUN" not in [name for name, _ in last_stage[[name for name, _ in last_stage].index("USER") :]]


@pytest.mark.parametrize("path", DOCKERFILES)
def test_images_copy_what_is_there_and_what_the_ignore_file_lets_through(path):
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for name, rest in instructions(path):
        if name == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists(), source
                assert source in kept, source


def test_the_dashboard_is_well_formed():
    found = dashboard()
    ids = [panel["id"] for panel in found["panels"]]
    assert len(ids) == len(set(ids))
    assert {variable["name"] for variable in found["templating"]["list"]} == {"datasource", "run"}
    taken = set()
    for panel in found["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, f"{panel['title']} lies on another panel"
        taken |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}"
            assert panel["description"]
            assert [target["refId"] for target in panel["targets"]] == sorted({t["refId"] for t in panel["targets"]})


def test_every_query_of_our_own_metrics_is_of_the_chosen_runs():
    for expression in expressions():
        for name, matchers in re.findall(r"(ray_rondo_[a-z0-9_]+)(\{[^}]*\})?", expression):
            assert 'run=~"$run"' in matchers, f"{name} in {expression}"


def test_grafanas_own_model_reads_the_dashboard():
    models = pytest.importorskip(
        "grafana_foundation_sdk.models.dashboard", reason="grafana-foundation-sdk is not installed"
    )
    read = models.Dashboard.from_json(dashboard())
    assert len(read.panels) == len(dashboard()["panels"])


def test_every_alert_says_what_it_is_and_has_a_chapter_of_the_runbook():
    chapters = set(re.findall(r"^### (\w+)$", (DEPLOY / "RUNBOOK.md").read_text(), flags=re.MULTILINE))
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
    assert chapters == set(names)
    for rule in alerts():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_every_alert_is_seen_to_fire_in_the_rules_own_tests():
    tests = (DEPLOY / "prometheus/alerts_test.yaml").read_text()
    assert [rule["alert"] for rule in alerts() if rule["alert"] not in tests] == []


def test_settings_that_the_runbook_and_the_alerts_name_exist():
    tree = {"policy": {"path": "x"}, "prompts": {"path": "p"}, "judge": {"target": "m:f"}}
    known = flatten(parse_config(tree, origin="x")).keys()
    sections = "rollout|judge|learner|evaluation|probe|cluster|tracking"
    text = (DEPLOY / "RUNBOOK.md").read_text() + (DEPLOY / "prometheus/alerts.yaml").read_text()
    named = set(re.findall(rf"(?<![\w./-])((?:{sections})\.[a-z_]+(?:\.[a-z_]+)*)(?![\w/(-])", text))
    named -= {name for name in named if name.endswith((".yaml", ".py"))}
    assert len(named) > 10
    assert [name for name in named if not any(key == name or key.startswith(f"{name}.") for key in known)] == []


def promtool(*arguments):
    """Output of promtool, which must be content."""
    done = subprocess.run(
        [PROMTOOL, *arguments], cwd=DEPLOY / "prometheus", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_promtool
def test_promtool_accepts_the_rules_and_their_tests():
    assert f"{len(alerts())} rules found" in promtool("check", "rules", "alerts.yaml")
    assert "SUCCESS" in promtool("test", "rules", "alerts_test.yaml")


@needs_promtool
def test_promtool_reads_every_query_of_the_dashboard(tmp_path):
    rules = [
        {"record": f"query:{number}", "expr": expression.replace("$run", ".*")}
        for number, expression in enumerate(expressions())
    ]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", str(tmp_path / "queries.yaml"))


@needs_promtool
def test_promtool_reads_the_scraping_configuration():
    promtool("check", "config", "--syntax-only", "prometheus.yml")
