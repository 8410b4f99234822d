"""A tiny run that serves its own labelling page, as `judge: {kind: human}` does unless told otherwise; and one that
lets its resources go while people label.
"""

import json
import time

import pytest
import yaml

from judge.human.crowd import Habits
from judge.human.database import Database
from judge.human.rounds import Rounds
from tests.support.accounts import check_accounts
from tests.support.annotators import annotators
from tests.support.page_crowd import people
from tests.support.processes import Command, rondo
from tests.support.tiny_policy import make_tiny_policy

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

NUM_ROUNDS = 2


def write_config(tmp_path, **people_settings):
    # Two people who both take the left side differ where a pair is shown to both: nobody is asked twice here.
    judge = {"kind": "human", "min_dwell_s": 0, "labels_per_minute": 10_000, "double_share": 0.0}
    tree = {
        "num_rounds": NUM_ROUNDS,
        "policy": {"path": str(make_tiny_policy(tmp_path / "policy")), "dtype": "float32"},
        "prompts": {"path": "tests.support.tiny_judge:prompts", "num_per_round": 6},
        "rollout": {"engine": "transformers", "num_completions": 2, "max_new_tokens": 16},
        "judge": judge | people_settings,
        "evaluation": {
            "prompts": "tests.support.tiny_judge:held_out",
            "gold": {"kind": "function", "target": "tests.support.tiny_judge:score"},
        },
    }
    path = tmp_path / "people.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def wait_for(path, command, log):
    deadline = time.monotonic() + 120
    while not path.exists():
        assert command.process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


def test_a_run_serves_its_own_page_says_where_and_goes_on_with_the_labels(tmp_path):
    config, root, log = write_config(tmp_path), tmp_path / "run", tmp_path / "log"
    command = Command("run", str(config), "--run-dir", str(root), log=log)
    wait_for(root / "labels" / "address.json", command, log)
    address = json.loads((root / "labels" / "address.json").read_text())["address"]
    code, link, err = rondo("label", "administrator", str(config), "--run-dir", str(root))
    assert code == 0, err
    assert link.startswith(f"{address}/invitation/")
    database = Database(f"sqlite:///{root}/labels/queue.sqlite")
    with people(address, database, choose=lambda html, left, right: "left", habits=Habits(dwell_s=0.01), num=2):
        code, _, _ = command.finish(timeout_s=300)
    said = " ".join(log.read_text().split())
    assert code == 0, said
    check_accounts(root)
    assert f"labelling page: {address}" in said
    assert "nobody can sign in yet" in said
    code, out, _ = rondo("status", str(root), "--json")
    found = json.loads(out)
    assert (found["state"], found["labelling_page"]) == ("done", address)
    assert all(round_["win_rate"] for round_ in found["rounds"]), "the gold judge measures, and people are not asked"
    code, out, _ = rondo("label", "status", str(config), "--run-dir", str(root), "--json")
    rounds = json.loads(out)["rounds"]
    assert [(row["round_id"], row["state"], row["sealed_by"]) for row in rounds] == [
        (number, "sealed", "quorum") for number in range(NUM_ROUNDS)
    ]
    assert command.leftovers() == []


def test_a_run_that_lets_go_stops_with_code_3_and_the_same_command_goes_on_once_people_are_done(tmp_path):
    config = write_config(tmp_path, while_waiting="release", page={"serve": False})
    root = tmp_path / "run"
    command = ("run", str(config), "--run-dir", str(root), "--set", "num_rounds=1")
    url = f"sqlite:///{root}/labels/queue.sqlite"
    for _ in range(2):  # asked again too early, it stops again
        code, _, err = rondo(*command)
        assert code == 3, err
        assert "round 0 waits for people" in " ".join(err.split())
        assert f"resume with: rondo run {config}" in " ".join(err.split())
    with annotators(url, choose=lambda messages, left, right: "left"):
        rounds = Rounds(Database(url))
        while any(view.state != "sealed" for view in rounds.all()):
            time.sleep(0.05)
    code, _, err = rondo(*command)
    assert code == 0, err
    check_accounts(root)
