"""Data flows rollout -> judge -> learner -> orchestrator, and imports follow it, lazy ones too."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ORDER = ["rollout", "judge", "learner", "orchestrator"]
PUBLIC = {"types", "errors", "shards", "lean"}
# What the orchestrator needs before any actor exists: prompts are drawn, and bad input is refused, in the driver.
ORCHESTRATOR = {"config", "actor", "rows", "sources", "prompts", "encoder", "check", "base_config"}
# `rondo reward-model fit` trains in this process, and `rondo bench reward` measures a judge without Ray around it.
# `rondo label` works on the queue in this process, `rondo fork` on the learner's state. `rondo bench cluster` knows how
# long its simulated engine takes.
# Who is notified of a run is told as who waits for labels is, and its secrets are read as a judge's are.
ORCHESTRATOR |= {"webhook", "secret"}
ORCHESTRATOR |= {"restart", "reward_config", "reward_model", "backend", "protocol", "human", "simulated_engine"}
ONLY_IN = {
    # The engine, its worker extension, and the peer that the bench holds the engine against.
    "vllm": {"rollout/vllm_engine.py", "rollout/vllm_worker.py", "rollout/vllm_peer.py"},
    "ray": {
        "rollout/actor.py",
        "judge/actor.py",
        "judge/human/actor.py",
        "learner/actor.py",
        "orchestrator/cluster/calls.py",
        "orchestrator/cluster/dispatch.py",
        "orchestrator/cluster/engine_pool.py",
        "orchestrator/cluster/label_server.py",
        "orchestrator/cluster/learner.py",
        "orchestrator/cluster/metrics.py",
        "orchestrator/cluster/nodes.py",
        "orchestrator/cluster/ranks.py",
        "orchestrator/cluster/rollout.py",
        "orchestrator/cluster/session.py",
        "orchestrator/cluster/simulated.py",
    },
}


def imports_of(source: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "relative imports hide the arrows"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def violations(path: str, source: str) -> list[str]:
    package = path.split("/", maxsplit=1)[0]
    allowed = PUBLIC | (ORCHESTRATOR if package == "orchestrator" else set())
    wrong = []
    for name in imports_of(source):
        top, *rest = name.split(".")
        if top in ORDER and top != package:
            if ORDER.index(top) > ORDER.index(package):
                wrong.append(f"{path} imports {name}: against the arrow")
            elif not rest or rest[0] not in allowed:
                wrong.append(f"{path} imports {name}: only {sorted(allowed)} cross packages")
        if path not in ONLY_IN.get(top, {path}):
            wrong.append(f"{path} imports {name}: only {sorted(ONLY_IN[top])} may")
    return wrong


@pytest.mark.parametrize("path", sorted(p for name in ORDER for p in (ROOT / name).rglob("*.py")), ids=str)
def test_imports_follow_the_data(path):
    assert violations(path.relative_to(ROOT).as_posix(), path.read_text()) == []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("rollout/x.py", "import judge.types"),
        ("rollout/x.py", "def f():\n    from orchestrator import config"),
        ("learner/x.py", "from judge.pairing import select"),
        ("judge/x.py", "import ray"),
        ("learner/x.py", "def f():\n    import vllm"),
    ],
)
def test_the_check_can_fail(path, source):
    assert violations(path, source)


def test_rollout_types_is_light():
    code = "import sys, rollout.types, judge.types, learner.types; print({'torch', 'ray', 'vllm'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert out.stdout.strip() == "set()"
