"""What a learner leaves in shared memory for the engines of its node: the policy that it published, byte for byte."""

import pytest
import torch
from safetensors.torch import load_file

from rollout.shards import ask_for_offers, offered_weights
from tests.support.tiny_learner import one_round
from tests.support.tiny_pairs import random_pairs
from tests.support.tiny_policy import make_tiny_policy

LORA = {"rank": 4, "alpha": 8}


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    make_tiny_policy(tmp_path / "policies/v0000")
    return tmp_path


@pytest.mark.parametrize(
    "settings", [{}, {"publish_dtype": "bfloat16"}, {"lora": LORA}], ids=["fp32", "bf16", "merged"]
)
def test_engines_of_the_node_find_what_was_published(run_dir, settings):
    ask_for_offers(run_dir)
    _, update, learner = one_round(run_dir, random_pairs(4), **settings)
    folder = run_dir / update.policy_out.path
    with offered_weights(run_dir, update.policy_out, folder) as weights:
        found = dict(weights.tensors())
    expected = load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    del learner  # and with it the memory
    with offered_weights(run_dir, update.policy_out, folder) as weights:
        assert weights is None


def test_an_adapter_goes_by_its_folder(run_dir):
    ask_for_offers(run_dir)
    _, update, _ = one_round(run_dir, random_pairs(4), lora={**LORA, "publish": "adapter"})
    with offered_weights(run_dir, update.policy_out, run_dir / update.policy_out.path) as weights:
        assert weights is None


def test_nothing_is_kept_in_memory_where_no_engine_asks(run_dir):
    _, _, learner = one_round(run_dir, random_pairs(4))
    assert not learner._offer._held
