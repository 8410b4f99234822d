"""What operators have of a real run: metrics in Prometheus' format, logs, the live page, a timeline, a way back."""

import json
import re
import shutil
import time
import urllib.request

import pytest
import ray
import yaml

from orchestrator.cluster.metrics import RayMetrics
from orchestrator.cluster.session import start_ray, stop_ray
from orchestrator.config import ClusterConfig
from orchestrator.telemetry.metrics import METRICS
from rollout.errors import IntegrityError
from tests.support.processes import Command
from tests.support.tiny_config import tiny_config
from tests.support.tiny_policy import make_tiny_policy
from tests.support.tiny_run import tiny_run
from tests.support.told_events import told_events

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return make_tiny_policy(tmp_path_factory.mktemp("policy"))


def test_ray_exports_every_metric_of_the_table_under_its_name(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    start_ray(ClusterConfig(num_cpus=1))
    try:
        sink = RayMetrics("my")
        for event in told_events():
            sink.take(event)
        (node,) = ray.nodes()
        url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        wanted, deadline = {metric.exported for metric in METRICS}, time.monotonic() + 60
        while missing := wanted - set(re.findall(r"^(ray_rondo_[a-z0-9_]+)\{", page := scrape(url), re.MULTILINE)):
            assert time.monotonic() < deadline, f"not exported: {sorted(missing)}"
            time.sleep(1)
        (lag,) = [line for line in page.splitlines() if line.startswith("ray_rondo_rejected_share{")]
        assert 'run="my"' in lag
        assert float(lag.rpartition(" ")[2]) == 0.2
        (tokens,) = [
            line
            for line in page.splitlines()
            if line.startswith("ray_rondo_generated_tokens_total{") and 'engine="1"' in line
        ]
        assert float(tokens.rpartition(" ")[2]) == 2000
    finally:
        stop_ray()


def scrape(url):
    try:
        return urllib.request.urlopen(url, timeout=10).read().decode()
    except OSError:  # the agent is still starting
        return ""


@pytest.fixture(scope="module")
def finished(policy, tmp_path_factory):
    """A run of two rounds by the command, on Ray, with its log in JSON and its metrics on."""
    folder = tmp_path_factory.mktemp("finished")
    tree = tiny_config(policy, logging="json", cluster__num_cpus=4, cluster__metrics=True).model_dump(
        mode="json", exclude_defaults=True
    )
    (folder / "mine.yaml").write_text(yaml.safe_dump(tree))
    code, _, log = Command("run", str(folder / "mine.yaml"), "--run-dir", str(folder / "run")).finish(400)
    assert code == 0, log
    return folder / "run", log


def test_a_run_logs_nothing_but_objects(finished):
    _, log = finished
    lines = [line for line in map(json.loads, log.splitlines()) if "event" in line]  # the others are a library's
    assert {line["run"] for line in lines} == {"run"}
    assert {"driver", "rollout-0", "learner", "judge"} <= {line["actor"] for line in lines}
    assert [line["round"] for line in lines if line["event"] == "round_done"] == [0, 1]
    done, *told = lines[-3:]
    assert done["state"] == "done"
    assert [line["text"].strip() for line in told] == [f"done: {finished[0]}", f"report: {finished[0] / 'report.html'}"]


def test_the_live_page_of_a_finished_run_shows_its_rounds(finished):
    code, page, log = Command("top", str(finished[0]), "--once").finish(120)
    assert code == 0, log
    assert "done" in page
    assert "v1>v2" in page


def test_the_timeline_of_a_real_round_has_engine_judge_and_learner(finished, tmp_path):
    out = tmp_path / "round.json"
    code, page, log = Command("timeline", str(finished[0]), "--round", "1", "--out", str(out), "--json").finish(120)
    assert code == 0, log
    busy = json.loads(page)["busy_share"]
    assert busy.keys() == {"engine 0", "judge", "learner"}
    assert all(0 < share <= 1 for share in busy.values())
    trace = json.loads(out.read_text())
    stages = {event["name"] for event in trace["traceEvents"] if event["ph"] == "X" and event["cat"] == "driver"}
    assert {"generate", "judge", "learn", "evaluate"} <= stages


def test_a_round_is_rolled_back_as_the_runbook_says(policy, tmp_path):
    root, aside = tmp_path / "run", tmp_path / "aside"
    first = tiny_run(tiny_config(policy, num_rounds=3), root).records()
    aside.mkdir()
    for round_id in (1, 2):
        shutil.move(root / f"rounds/{round_id:04d}", aside)
    again = tiny_run(tiny_config(policy, num_rounds=3, learner__beta=0.4), root, amend=True)
    records = again.records()
    assert records[0] == first[0]
    assert (records[1].policy_in, records[1].drawn_sha256) == (first[1].policy_in, first[1].drawn_sha256)
    assert records[1].settings != first[1].settings
    assert [record.policy_out.version for record in records] == [1, 2, 3]
    assert records[2].policy_out.sha256 != first[2].policy_out.sha256


def test_a_round_in_the_middle_cannot_go_alone(policy, tmp_path):
    root = tmp_path / "run"
    tiny_run(tiny_config(policy, num_rounds=3), root)
    shutil.rmtree(root / "rounds/0001")
    with pytest.raises(IntegrityError, match="was opened with policy v2"):
        tiny_run(tiny_config(policy, num_rounds=3, learner__beta=0.4), root, amend=True)
