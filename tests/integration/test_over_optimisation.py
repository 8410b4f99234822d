"""The quickstart with a fitted reward model as judge: beta alone decides whether gold rises too or the alarm is raised.

Every rule of the alarm is test_alarm.py's, on histories drawn by hand and simulated.
"""

import json

import pytest

from tests.support.processes import rondo

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]


def run(quickstart, quickstart_reward, root, *overrides, exit_code=0):
    settings = [f"judge.model={quickstart_reward.folder}", f"policy.path={quickstart.root / 'policies/v0000'}"]
    options = [word for setting in (*settings, *overrides) for word in ("--set", setting)]
    command = ("run", "configs/quickstart-reward-model.yaml", "--run-dir", str(root), *options)
    code, _, err = rondo(*command, timeout_s=1200)
    assert code == exit_code, err
    code, out, _ = rondo("status", str(root), "--json")
    assert code == 0
    return json.loads(out)["rounds"], err


def gold_of(round_):
    [gold] = [s for s in round_["scores"]["standings"] if (s["judge"], s["baseline"]) == ("gold", "base")]
    return gold["win_rate"]["mean"]


def test_at_the_default_beta_gold_rises_and_the_alarm_is_silent(quickstart, quickstart_reward, tmp_path):
    rounds, err = run(quickstart, quickstart_reward, tmp_path / "run")
    assert [round_["scores"]["alarms"] for round_ in rounds] == [[], [], []]
    assert not any(alarm in err for alarm in ("over_optimisation", "judges_disagree", "collapse"))
    assert gold_of(rounds[-1]) >= 0.75


def test_with_beta_far_too_low_the_alarm_stops_the_run(quickstart, quickstart_reward, tmp_path):
    overrides = ("learner.beta=0.002", "evaluation.alarm.action=stop")
    rounds, err = run(quickstart, quickstart_reward, tmp_path / "run", *overrides, exit_code=3)
    raised = rounds[-1]["scores"]["alarms"]
    print([gold_of(round_) for round_ in rounds], raised)
    assert not any(round_["scores"]["alarms"] for round_ in rounds[:-1])
    assert raised[0].partition(":")[0] in {"over_optimisation", "judges_disagree", "collapse"}
    assert raised[0][:60] in " ".join(err.split())
