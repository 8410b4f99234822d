"""Step by step the same losses as TRL's DPOTrainer on the same token ids.

TRL tokenises text by itself, prompt and completion apart. To compare the same tokens, its `_prepare_dataset` is
passed over here: it gets our token columns as they are. Its shuffling is off, and the rows stand in our order.

TRL 1.16 leaves label_smoothing out of its `sigmoid` loss. Its `aot` loss has it: that sorts log ratios within a
micro-batch and is otherwise the smoothed sigmoid, so with one pair in a micro-batch the two are the same.
"""

from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from learner.config import LearnerConfig
from learner.worker import LearnerWorker
from rollout.shards import hash_policy
from rollout.types import PolicyRef
from tests.support.tiny_pairs import random_pairs, write_pair_shard
from tests.support.tiny_policy import make_tiny_policy
from tests.support.trl_tokens import LIKE_OURS, FedTokens

pytestmark = pytest.mark.integration

NUM_PAIRS, BATCH_PAIRS, LEARNING_RATE = 24, 4, 1e-3
OURS = {"learning_rate": LEARNING_RATE, "batch_pairs": BATCH_PAIRS, "compute_dtype": "float32", "device": "cpu"}


class TokenDPOTrainer(FedTokens, DPOTrainer):
    pass


def trl_run(folder, rows, out_dir, *, accumulation=1, **chosen):
    args = DPOConfig(
        output_dir=str(out_dir),
        **LIKE_OURS,
        **{"beta": 0.1, **chosen},
        learning_rate=LEARNING_RATE,
        per_device_train_batch_size=BATCH_PAIRS // accumulation,
        gradient_accumulation_steps=accumulation,
    )
    dataset = Dataset.from_list(
        [
            {
                "prompt": "",
                "chosen": "",
                "rejected": "",
                "prompt_ids": row.pair.chosen.prompt_ids.tolist(),
                "chosen_ids": row.pair.chosen.completion_ids.tolist(),
                "rejected_ids": row.pair.rejected.completion_ids.tolist(),
            }
            for row in rows
        ]
    )
    trainer = TokenDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        ref_model=AutoModelForCausalLM.from_pretrained(folder),
        args=args,
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(folder),
    )
    trainer.train()
    losses = torch.tensor(trainer.losses).view(-1, accumulation).mean(dim=1).tolist()
    logged = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]
    return SimpleNamespace(losses=losses, logged=logged, model=trainer.model)


def our_run(run_dir, folder, **settings):
    base = PolicyRef(version=0, path="policies/v0000", sha256=hash_policy(folder))
    learner = LearnerWorker(
        settings=LearnerConfig.model_validate({**OURS, **settings}),
        run_dir=run_dir,
        base=base,
        seed=17,
        policy_dtype="float32",
        num_rounds=1,
    )
    batches, plan = [], learner._plan
    learner._plan = lambda *args, **kwargs: batches.extend(plan(*args, **kwargs)) or batches
    shard = write_pair_shard(run_dir, random_pairs(NUM_PAIRS))
    steps, training = [], learner.train(round_id=0, shards=[shard], policy_in=base)
    while True:
        try:
            steps.append(next(training).values)
        except StopIteration as done:
            return steps, done.value, [row for batch in batches for row in batch]


def same(name, ours=None, theirs=None, **both):
    """A loss that both call by one name and most of whose options, too; accumulation: TRL's passes a step."""
    return {"loss": name, **both, **(ours or {})}, {"loss_type": [name], **both, **(theirs or {})}


SMOOTH = {"label_smoothing": 0.2}
CASES = {
    "sigmoid": same("sigmoid"),
    "accumulated": same("sigmoid", theirs={"accumulation": 2}),
    # See the head of this file.
    "smoothed": (
        {"loss": "sigmoid", **SMOOTH},
        {"loss_type": ["aot"], **SMOOTH, "accumulation": BATCH_PAIRS},
    ),
    "robust": same("robust", **SMOOTH),
    "ipo": same("ipo"),
    "hinge": same("hinge"),
    "exo_pair": same("exo_pair", **SMOOTH),
    "nca_pair": same("nca_pair"),
    "bco_pair": same("bco_pair", ours={"bco_shift": "none"}),
    "sppo_hard": same("sppo_hard"),
    "aot": same("aot", **SMOOTH),
    "aot in passes": same("aot", ours={"max_tokens_per_microbatch": 60}, **SMOOTH),
    "apo_zero": same("apo_zero"),
    "apo_down": same("apo_down"),
    "discopop": same("discopop", discopop_tau=0.5),
    "sigmoid_norm": same("sigmoid_norm", beta=2.0),
    "ld_dpo": ({"loss": "ld_dpo", "ld_alpha": 0.3}, {"loss_type": ["sigmoid"], "ld_alpha": 0.3}),
    "forward_kl": same("sigmoid", ours={"f_divergence": "forward_kl"}, theirs={"f_divergence_type": "forward_kl"}),
    "jensen_shannon": same(
        "ipo", ours={"f_divergence": "jensen_shannon"}, theirs={"f_divergence_type": "js_divergence"}
    ),
    "alpha": same(
        "sigmoid",
        ours={"f_divergence": "alpha", "f_alpha": 0.3},
        theirs={"f_divergence_type": "alpha_divergence", "f_alpha_divergence_coef": 0.7},
    ),
    "mixture": (
        {"loss": [{"name": "sigmoid", "weight": 0.8}, {"name": "bco_pair", "weight": 0.2}], "bco_shift": "none"},
        {"loss_type": ["sigmoid", "bco_pair"], "loss_weights": [0.8, 0.2]},
    ),
    "wpo": same("sigmoid", ours={"wpo": True}, theirs={"use_weighting": True}),
    "wpo in passes": same("ipo", ours={"wpo": True, "max_tokens_per_microbatch": 60}, theirs={"use_weighting": True}),
    "moving reference": same(
        "sigmoid",
        ours={"reference": "ema", "ema_alpha": 0.6, "ema_steps": 2},
        theirs={"sync_ref_model": True, "ref_model_mixup_alpha": 0.6, "ref_model_sync_steps": 2},
    ),
}


@pytest.mark.parametrize(("ours", "theirs"), CASES.values(), ids=CASES)
def test_losses_margins_and_weights_agree_with_trl(tmp_path, ours, theirs):
    folder = make_tiny_policy(tmp_path / "policies/v0000")
    if theirs.get("accumulation", 1) > 1:
        ours = {**ours, "max_tokens_per_microbatch": 60}
    steps, update, rows = our_run(tmp_path, folder, **ours)
    trl = trl_run(folder, rows, tmp_path / "trl", **theirs)

    assert len(steps) == len(trl.losses) == 6
    assert [step["loss"] for step in steps] == pytest.approx(trl.losses, abs=1e-4, rel=1e-5)
    assert max(trl.losses) - min(trl.losses) > 0.003  # a trajectory, not six times where policy and reference agree
    if "ld_alpha" not in ours:  # TRL's rewards are the desensitised ones there
        margins = [float(e["rewards/margins"]) for e in trl.logged]
        assert [s["reward_margin"] for s in steps] == pytest.approx(margins, abs=1e-4)
    assert [s["grad_norm"] for s in steps] == pytest.approx([float(e["grad_norm"]) for e in trl.logged], rel=1e-3)
    learnt = AutoModelForCausalLM.from_pretrained(tmp_path / update.policy_out.path)
    for (name, got), expected in zip(learnt.named_parameters(), trl.model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=0, msg=name)
