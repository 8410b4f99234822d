"""The quickstart with a fitted reward model as judge: at the default beta gold rises too, and no alarm is raised.

What the alarm does when a run lets go of its reference is test_alarm.py's, on histories drawn by hand and simulated.
"""

import json

import pytest

from tests.support.processes import rondo

pytestmark = [pytest.mark.integration, pytest.mark.timeout(1800)]


def run(quickstart, quickstart_reward, root, *overrides):
    settings = [f"judge.model={quickstart_reward.folder}", f"policy.path={quickstart.root / 'policies/v0000'}"]
    options = [word for setting in (*settings, *overrides) for word in ("--set", setting)]
    command = ("run", "configs/quickstart-reward-model.yaml", "--run-dir", str(root), *options)
    code, _, err = rondo(*command, timeout_s=1200)
    assert code == 0, err
    code, out, _ = rondo("status", str(root), "--json")
    assert code == 0
    return json.loads(out)["rounds"], err


def gold_of(round_):
    [gold] = [s for s in round_["scores"]["standings"] if (s["judge"], s["baseline"]) == ("gold", "base")]
    return gold["win_rate"]["mean"]


def test_at_the_default_beta_gold_rises_and_the_alarm_is_silent(quickstart, quickstart_reward, tmp_path):
    rounds, err = run(quickstart, quickstart_reward, tmp_path / "run")
    assert [round_["scores"]["alarms"] for round_ in rounds] == [[], [], []]
    assert "over_optimisation" not in err
    assert gold_of(rounds[-1]) >= 0.75
