"""Several judges as Ray actors: each shard is judged once, whichever of them dies."""

import os
import signal
from collections import Counter
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from judge.config import FunctionJudge
from judge.shards import read_verdicts
from judge.types import VerdictShard
from orchestrator.cluster.judge import RayJudge
from orchestrator.cluster.session import start_ray, stop_ray
from orchestrator.config import ClusterConfig
from orchestrator.given import make_group, write_given
from orchestrator.observer import Observer
from rollout.prompts import prompt_id
from rollout.shards import find_shards
from rollout.types import Prompt
from tests.support.processes import rondo
from tests.support.tiny_policy import make_tiny_policy

pytestmark = pytest.mark.integration

HERE = "tests.integration.test_judge_actors"


def by_length_once_dying(prompts, completions, folder, **columns):
    """Writes down who judged, and kills its own process the first time that it sees prompt 300."""
    text = prompts[0][0]["content"]
    mark = Path(folder) / "died"
    if text == "q300" and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (Path(folder) / f"judge-{os.getpid()}").touch()
    return [float(len(answer[0]["content"])) for answer in completions]


@pytest.fixture
def ray():
    start_ray(ClusterConfig(num_cpus=2))
    yield
    stop_ray()


def test_a_judge_that_dies_loses_no_shard(ray, tmp_path):
    groups = []
    for number in range(1024):
        messages = ({"role": "user", "content": f"q{number}"},)
        prompt = Prompt(prompt_id=prompt_id(messages), messages=messages, source=f"{number}")
        groups.append(make_group(prompt, ["x" * (number % 5), "x" * (number % 7 + 5)]))
    shards = write_given(tmp_path, "groups", groups)
    settings = FunctionJudge(target=f"{HERE}:by_length_once_dying", settings={"folder": str(tmp_path)}, num_actors=2)
    judge = RayJudge(tmp_path, "run", settings, Observer(tmp_path, console=Console(quiet=True)))
    judge.start()
    built = judge.build(iter(shards), round_id=0, num_chunks=len(shards))
    assert (tmp_path / "died").exists()
    assert [shard.chunk_id for shard in built] == [0, 1, 2, 3]
    assert sum(shard.num_pairs for shard in built) == 1024
    assert len(list(tmp_path.glob("judge-*"))) >= 2, "both judges had work"
    found = find_shards(tmp_path, "rounds/0000/verdicts", VerdictShard)
    judged = Counter(answer.prompt_id for shard in found for answer in read_verdicts(tmp_path, shard))
    assert set(judged.values()) == {2}, "each completion has one score"
    assert len(judged) == 1024


def test_a_judge_that_cannot_work_is_refused_in_one_line_and_leaves_no_run(tmp_path):
    policy = make_tiny_policy(tmp_path / "policy")
    tree = {
        "policy": {"path": str(policy), "dtype": "float32"},
        "prompts": {"path": "tests.support.tiny_judge:prompts", "num_per_round": 8},
        "rollout": {"engine": "transformers", "max_new_tokens": 8},
        "judge": {"kind": "llm", "model": "m", "endpoint": "http://127.0.0.1:9/v1"},
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    code, out, err = rondo("run", str(tmp_path / "run.yaml"), "--run-dir", str(tmp_path / "run"), OPENAI_API_KEY="")
    assert code == 2, err
    assert out == ""
    assert "judge.endpoint http://127.0.0.1:9/v1 does not serve 'm'" in " ".join(err.split())
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
