"""The length-controlled win rate against the package that AlpacaEval publishes its own with."""

import numpy as np
import pytest
from sklearn import config_context

from orchestrator.scoreboard.length_control import GamedRows, length_controlled
from tests.support.tiny_annotations import make_comparisons

pytestmark = pytest.mark.integration

NUM = 300
GLM = {"v1": "length_controlled_v1", "noreg": "length_controlled_noreg", "minimal": "length_controlled_minimal"}


def make_gamed(difficulties):
    """The two gamed baselines: equal but for their length, one shorter and one longer."""
    versions = []
    for seed, extra in ((20, -600), (21, 400)):
        rows = make_comparisons(NUM, skill=0.0, length_weight=-1.4, extra_length=extra, seed=seed)
        delta = rows.len_baseline - rows.len_model
        versions.append((delta / delta.std(ddof=1), rows.preferences))
    return GamedRows(
        std_delta_len=np.concatenate([delta for delta, _ in versions]),
        preferences=np.concatenate([preferences for _, preferences in versions]),
        difficulties=np.tile(difficulties, 2),
    )


@pytest.fixture
def oracle(tmp_path, monkeypatch):
    """alpaca_eval 0.6.6 with its download replaced by a table of our own; its switch of sklearn's is undone."""
    pd = pytest.importorskip("pandas")
    pytest.importorskip("patsy")
    glm = pytest.importorskip("alpaca_eval.metrics.glm_winrate")

    def length_controlled_winrate(rows, gamed, name):
        table = pd.DataFrame(
            {
                "model": ["concise"] * NUM + ["verbose"] * NUM,
                "index": [*range(NUM), *range(NUM)],
                "preference": gamed.preferences,
                "std_delta_len": gamed.std_delta_len,
                "instruction_difficulty": gamed.difficulties,
                "not_gamed_baseline": False,
            }
        )
        table.to_csv(tmp_path / "gamed.csv", index=False)
        monkeypatch.setattr(glm, "hf_hub_download", lambda **_: tmp_path / "gamed.csv")
        annotations = pd.DataFrame(
            {
                "output_1": ["x" * int(n) for n in rows.len_baseline],
                "output_2": ["x" * int(n) for n in rows.len_model],
                "preference": rows.preferences + 1,
                "generator_1": "baseline",
                "generator_2": "model",
            }
        ).rename_axis("index")
        return glm.get_length_controlled_winrate(annotations, glm_name=name, save_weights_dir=None)

    with config_context():
        yield length_controlled_winrate


@pytest.mark.parametrize("name", GLM)
@pytest.mark.parametrize(
    ("skill", "extra_length", "seed"), [(0.0, 400, 0), (-2.5, -700, 1), (1.5, -900, 2), (-1.0, 900, 3)]
)
def test_it_equals_the_oracle_to_three_decimals(oracle, name, skill, extra_length, seed):
    rows = make_comparisons(
        NUM, skill=skill, length_weight=-1.2, extra_length=extra_length, difficulty_weight=0.8, seed=seed
    )
    gamed = make_gamed(rows.difficulties)
    theirs = oracle(rows, gamed, GLM[name])
    ours = length_controlled(
        rows.len_baseline,
        rows.len_model,
        rows.preferences,
        difficulties=None if name == "minimal" else rows.difficulties,
        gamed=gamed if name == "v1" else None,
        num_resamples=2,
    )
    assert 100 * rows.preferences.mean() == pytest.approx(theirs["win_rate"])
    assert abs(theirs["length_controlled_winrate"] - theirs["win_rate"]) > 1, "nothing was controlled for"
    assert 100 * ours.win_rate == pytest.approx(theirs["length_controlled_winrate"], abs=5e-4)
