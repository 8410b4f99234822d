"""KTO step by step beside TRL's KTOTrainer, and the losses of its reference-free trainers on the same numbers.

TRL mismatches prompts and answers of one batch, we those of the round; it takes any as a column, so it gets ours.
"""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.orpo import ORPOTrainer

from learner.losses.reference_free import nll_loss, orpo_loss, simpo_loss
from tests.integration.test_trl_agreement import BATCH_PAIRS, LEARNING_RATE, our_run
from tests.support.tiny_logps import pairs_of
from tests.support.tiny_policy import make_tiny_policy
from tests.support.trl_tokens import LIKE_OURS, FedTokens

pytestmark = pytest.mark.integration


class TokenKTOTrainer(FedTokens, KTOTrainer):
    pass


def trl_run(folder, rows, out_dir, **chosen):
    args = KTOConfig(
        output_dir=str(out_dir),
        **LIKE_OURS,
        **chosen,
        learning_rate=LEARNING_RATE,
        train_sampling_strategy="sequential",
        per_device_train_batch_size=2 * BATCH_PAIRS,
    )
    answers = [
        {
            "prompt": "",
            "completion": "",
            "prompt_ids": side.prompt_ids.tolist(),
            "completion_ids": side.completion_ids.tolist(),
            "KL_completion_ids": other.completion_ids.tolist(),
            "label": label,
        }
        for row in rows
        for side, other, label in zip(row.sides, row.mismatched.sides, (True, False), strict=True)
    ]
    trainer = TokenKTOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        ref_model=AutoModelForCausalLM.from_pretrained(folder),
        args=args,
        train_dataset=Dataset.from_list(answers),
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.train()
    estimates = [float(entry["kl"]) for entry in trainer.state.log_history if "kl" in entry]
    return trainer.losses, estimates, trainer.model


def test_kto_agrees_with_trl(tmp_path):
    folder = make_tiny_policy(tmp_path / "policies/v0000")
    weights = {"beta": 0.1, "desirable_weight": 1.3, "undesirable_weight": 0.7}
    steps, update, rows = our_run(tmp_path, folder, loss="kto", max_tokens_per_microbatch=60, **weights)
    losses, estimates, model = trl_run(folder, rows, tmp_path / "trl", **weights)
    assert len(losses) == 6
    assert [step["loss"] for step in steps] == pytest.approx(losses, abs=1e-4)
    assert max(losses) - min(losses) > 0.003
    assert max(estimates) > 0.01  # the estimate took part
    learnt = AutoModelForCausalLM.from_pretrained(tmp_path / update.policy_out.path)
    for (name, got), expected in zip(learnt.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=0, msg=name)


def columns():
    torch.manual_seed(0)
    return -20 * torch.rand(2, 6) - 1


@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
def test_simpo_agrees_with_trl(label_smoothing):
    chosen_B, rejected_B = columns()
    options = {"beta": 2.0, "simpo_gamma": 0.7, "label_smoothing": label_smoothing}
    accelerator = SimpleNamespace(device="cpu")
    theirs = SimpleNamespace(alpha=0.0, loss_type="simpo", accelerator=accelerator, **options)
    expected_B = CPOTrainer.cpo_loss(theirs, chosen_B / 5, rejected_B / 10)[0]
    got_B = simpo_loss(pairs_of(chosen_B.tolist(), rejected_B.tolist()), **options)
    assert got_B.tolist() == pytest.approx(expected_B.tolist(), abs=1e-4)


def test_the_odds_ratio_agrees_with_trl():
    chosen_B, rejected_B = columns()
    theirs = SimpleNamespace(beta=0.3, accelerator=SimpleNamespace(device="cpu"))
    expected_B = -ORPOTrainer.odds_ratio_loss(theirs, chosen_B / 5, rejected_B / 10)[0]
    logps = pairs_of(chosen_B.tolist(), rejected_B.tolist())
    assert (orpo_loss(logps, beta=0.3) - nll_loss(logps)).tolist() == pytest.approx(expected_B.tolist(), abs=1e-4)
