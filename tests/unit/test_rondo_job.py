"""The wrapper of KubeRay's job, its preStop hook and the Slurm script, each with a fake `rondo`."""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"
JOB, PRE_STOP, SBATCH = DEPLOY / "kuberay/rondo-job", DEPLOY / "kuberay/rondo-pre-stop", DEPLOY / "slurm/rondo.sbatch"


def script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def env(tmp_path):
    (tmp_path / "bin").mkdir()
    return {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "RONDO_PREEMPTED_MARK": str(tmp_path / "mark"),
        "RONDO_PID_DIR": str(tmp_path),
        "RONDO_OUTCOME_FILE": str(tmp_path / "run/outcome"),
        "RONDO_STOP_TIMEOUT_S": "10",
    }


def fake(tmp_path, text):
    return script(tmp_path / "bin/rondo", text)


def slow(tmp_path, code):
    """A run that stops a moment after it was asked to, with this code."""
    fake(
        tmp_path,
        f"trap 'sleep 0.3; echo stopped >> {tmp_path}/said; exit {code}' TERM\n"
        f"echo up > {tmp_path}/up\nwhile true; do sleep 0.05; done",
    )


def wait_for(path):
    deadline = time.monotonic() + 10
    while not (path.exists() and path.read_text().strip()):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def start(tmp_path, env):
    process = subprocess.Popen([JOB, "run", "x.yaml"], env=env, stderr=subprocess.DEVNULL)
    wait_for(tmp_path / "up")
    wait_for(tmp_path / f"rondo-job.{process.pid}.pid")
    return process


@pytest.mark.parametrize(
    ("code", "seen", "outcome"),
    [(0, 0, "done"), (1, 1, "failed with exit code 1"), (2, 0, "refused"), (3, 0, "stopped"), (137, 137, "failed")],
)
def test_codes_that_another_attempt_would_only_repeat_end_the_job(tmp_path, env, code, seen, outcome):
    fake(tmp_path, f'echo "$@" > {tmp_path}/arguments; exit {code}')
    done = subprocess.run([JOB, "run", "my file.yaml"], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == seen, done.stderr
    assert (tmp_path / "run/outcome").read_text().startswith(outcome)
    assert f"rondo-job: {outcome}" in done.stderr
    assert (tmp_path / "arguments").read_text() == "run my file.yaml\n"
    assert not list(tmp_path.glob("*.pid"))


@pytest.mark.parametrize(("code", "seen"), [(3, 0), (1, 1)])
def test_ray_job_stop_gives_the_run_its_time_and_keeps_its_code(tmp_path, env, code, seen):
    slow(tmp_path, code)
    process = start(tmp_path, env)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == seen
    assert (tmp_path / "said").read_text() == "stopped\n"


def test_a_node_that_is_taken_away_lets_kuberay_start_the_next_attempt(tmp_path, env):
    slow(tmp_path, 3)
    process = start(tmp_path, env)
    began = time.monotonic()
    assert subprocess.run([PRE_STOP], env=env, check=False).returncode == 0
    assert time.monotonic() - began < 8, "the hook waited although the run had stopped"
    assert process.wait(timeout=10) == 3
    assert (tmp_path / "run/outcome").read_text().startswith("preempted")


def test_the_hook_stops_every_run_of_a_cluster_that_is_shared(tmp_path, env):
    slow(tmp_path, 3)
    both = [start(tmp_path, {**env, "RONDO_OUTCOME_FILE": str(tmp_path / name)}) for name in ("one", "two")]
    subprocess.run([PRE_STOP], env=env, check=True)
    assert [process.wait(timeout=10) for process in both] == [3, 3]
    assert (tmp_path / "two").read_text().startswith("preempted")


def test_the_hook_waits_for_a_run_that_stops_and_no_longer_than_it_may(tmp_path, env):
    fake(tmp_path, f"trap '' TERM\necho up > {tmp_path}/up\nsleep 4")
    process = start(tmp_path, env)
    began = time.monotonic()
    subprocess.run([PRE_STOP], env={**env, "RONDO_STOP_TIMEOUT_S": "1"}, check=True)
    assert 0.9 < time.monotonic() - began < 3.5
    process.wait(timeout=10)


def test_the_hook_does_nothing_where_no_run_is_going_on(tmp_path, env):
    assert subprocess.run([PRE_STOP], env=env, check=False).returncode == 0
    assert not (tmp_path / "mark").exists()


@pytest.fixture
def slurm(tmp_path, env):
    """srun runs its command here, ray its entrypoint; scontrol remembers what it was asked."""
    script(tmp_path / "bin/scontrol", f'[ "$1" = show ] && echo node-1 || echo "$@" >> {tmp_path}/scontrol')
    script(tmp_path / "bin/srun", 'while [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"')
    script(
        tmp_path / "bin/ray",
        f'echo "$@" > {tmp_path}/ray; cat "$RAY_AUTH_TOKEN_PATH" > {tmp_path}/token\n'
        'while [ "$1" != -- ]; do shift; done; shift\n"$@"',
    )
    return {
        **env,
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "node-[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "16",
        "SLURM_GPUS_ON_NODE": "8",
    }


def sbatch(slurm):
    return [shutil.which("bash"), str(SBATCH), "my.yaml", "/shared/my"]


def test_slurm_starts_one_cluster_with_a_token_and_one_run(tmp_path, slurm):
    fake(tmp_path, f'echo "$RAY_ADDRESS $RAY_AUTH_MODE $@" > {tmp_path}/arguments; exit 3')
    done = subprocess.run(sbatch(slurm), env=slurm, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert (tmp_path / "arguments").read_text() == "auto token run my.yaml --run-dir /shared/my\n"
    started = (tmp_path / "ray").read_text()
    assert started.startswith("symmetric-run --address node-1:20042 --min-nodes 2 --num-cpus 16 --num-gpus 8 -- ")
    assert len((tmp_path / "token").read_text()) == 64
    assert not list(tmp_path.glob(".rondo-*")), "the token stays behind"
    assert not (tmp_path / "scontrol").exists(), "a stop on purpose is not queued again"


def test_slurms_warning_before_there_is_a_run_queues_it_again(tmp_path, slurm):
    script(tmp_path / "bin/ray", f"echo up > {tmp_path}/up\nexec sleep 5")
    process = subprocess.Popen(sbatch(slurm), env=slurm)
    wait_for(tmp_path / "up")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=4) != 0
    assert (tmp_path / "scontrol").read_text() == "requeue 42\n"


@pytest.mark.parametrize(("code", "asked"), [(3, "requeue 42\n"), (1, None)])
def test_slurms_warning_stops_the_run_and_queues_it_again(tmp_path, slurm, code, asked):
    slow(tmp_path, code)
    process = subprocess.Popen(sbatch(slurm), env=slurm)
    wait_for(tmp_path / "up")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == code
    assert (tmp_path / "said").read_text() == "stopped\n"
    found = (tmp_path / "scontrol").read_text() if (tmp_path / "scontrol").exists() else None
    assert found == asked
