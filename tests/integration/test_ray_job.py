"""`ray job submit -- rondo run ...` on a cluster started with `ray start --head`, with token authentication on."""

import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.support.accounts import check_accounts
from tests.support.processes import ROOT
from tests.support.tiny_policy import make_tiny_policy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1200)]

BIN = Path(sys.executable).parent


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Head:
    def __init__(self) -> None:
        self.dashboard = free_port()
        self.port = free_port()
        self.env = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_ADDRESS": f"http://127.0.0.1:{self.dashboard}"}
        subprocess.run([BIN / "ray", "get-auth-token", "--generate"], check=True, capture_output=True, env=self.env)
        self.process = subprocess.Popen(
            [
                *(BIN / "ray", "start", "--head", "--block", "--include-dashboard=true", "--num-cpus=4"),
                *("--node-ip-address=127.0.0.1", "--disable-usage-stats", f"--object-store-memory={100 * 2**20}"),
                *(f"--port={self.port}", "--dashboard-host=127.0.0.1", f"--dashboard-port={self.dashboard}"),
                *(f"--dashboard-agent-listen-port={free_port()}",),
            ],
            env={key: value for key, value in self.env.items() if key != "RAY_ADDRESS"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def ray(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [BIN / "ray", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env={**self.env, **environment},
            timeout=600,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)


@pytest.fixture(scope="module")
def head():
    head = Head()
    try:
        deadline = time.monotonic() + 120
        while head.ray("job", "list", check=False).returncode:
            assert time.monotonic() < deadline, "the cluster did not come up"
            time.sleep(1)
        yield head
    finally:
        head.stop()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A user's folder: a judge of their own, prompts, a configuration."""
    folder = tmp_path_factory.mktemp("project")
    policy = make_tiny_policy(folder.parent / "policy")
    (folder / "my_rewards.py").write_text(
        "def score(prompts, completions, **columns):\n"
        "    return [float(answer[0]['content'].count('e')) for answer in completions]\n"
    )
    lines = [json.dumps({"prompt": f"question {n}"}) for n in range(8)]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    tree = {
        "num_rounds": 2,
        "policy": {"path": str(policy), "dtype": "float32"},
        "prompts": {"path": "prompts.jsonl", "num_per_round": 4},
        "rollout": {"engine": "transformers", "num_completions": 4, "max_new_tokens": 8},
        "judge": {"target": "my_rewards:score"},
    }
    (folder / "mine.yaml").write_text(yaml.safe_dump(tree))
    return folder


def submit(head, project, *arguments):
    command = [str(BIN / "python"), "-m", "orchestrator.cli", "run", "mine.yaml", *arguments]
    env = json.dumps({"env_vars": {"PYTHONPATH": str(ROOT)}})
    return head.ray(
        "job", "submit", "--working-dir", str(project), "--runtime-env-json", env, "--", *command, check=False
    )


def test_a_run_submitted_as_a_job_finishes_with_the_users_own_judge(head, project, tmp_path):
    done = submit(head, project, "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    check_accounts(tmp_path / "run")
    assert "v0>v1" in done.stdout


def test_actors_had_speaking_names(head, project, tmp_path):
    # The state API keeps dead actors, with the names that the dashboard shows.
    submit(head, project, "--run-dir", str(tmp_path / "run"))
    listed = head.ray("list", "actors", "--detail", "--format", "json", "--limit", "100")
    names = {actor["repr_name"] for actor in json.loads(listed.stdout)}
    assert any(re.fullmatch(r"rollout-0( v\d+)?", name) for name in names), names
    assert any(re.fullmatch(r"learner( step \d+)?", name) for name in names), names
    assert "judge-0 function:my_rewards:score" in names, names


def test_a_run_directory_that_would_go_with_the_job_is_refused(head, project):
    done = submit(head, project)
    assert done.returncode != 0
    assert "shared disk" in done.stdout + done.stderr


def test_without_the_token_nothing_can_be_submitted(head, project):
    done = head.ray("job", "list", check=False, RAY_AUTH_MODE="disabled")
    assert done.returncode != 0
