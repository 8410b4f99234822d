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
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from learner.config import LearnerConfig
from learner.worker import LearnerWorker
from rollout.shards import hash_policy
from rollout.types import PolicyRef
from tests.support.tiny_pairs import random_pairs, write_pair_shard
from tests.support.tiny_policy import make_tiny_policy

pytestmark = pytest.mark.integration

NUM_PAIRS, BATCH_PAIRS, LEARNING_RATE = 24, 4, 1e-3


class TokenDPOTrainer(DPOTrainer):
    """TRL's trainer, fed with token ids, and remembering each micro-batch's loss unrounded."""

    def _prepare_dataset(self, dataset, *args, **kwargs):
        return dataset

    def _get_train_sampler(self, dataset=None):
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, *args, **kwargs):
        result = super().compute_loss(*args, **kwargs)
        loss = result[0] if isinstance(result, tuple) else result
        self.losses = [*getattr(self, "losses", []), loss.item()]
        return result


def trl_run(folder, rows, out_dir, *, loss_type, label_smoothing, accumulation):
    args = DPOConfig(
        output_dir=str(out_dir),
        loss_type=[loss_type],
        beta=0.1,
        label_smoothing=label_smoothing,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        per_device_train_batch_size=BATCH_PAIRS // accumulation,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,
        max_length=None,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    dataset = Dataset.from_list(
        [
            {
                "prompt": "",
                "chosen": "",
                "rejected": "",
                "prompt_ids": row.chosen.prompt_ids.tolist(),
                "chosen_ids": row.chosen.completion_ids.tolist(),
                "rejected_ids": row.rejected.completion_ids.tolist(),
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
        settings=LearnerConfig(
            learning_rate=LEARNING_RATE, batch_pairs=BATCH_PAIRS, compute_dtype="float32", device="cpu", **settings
        ),
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
            return steps, done.value, [row.pair for batch in batches for row in batch]


CASES = {
    "sigmoid": {"loss_type": "sigmoid", "label_smoothing": 0.0, "accumulation": 1},
    "accumulated": {"loss_type": "sigmoid", "label_smoothing": 0.0, "accumulation": 2},
    "smoothed": {"loss_type": "aot", "label_smoothing": 0.2, "accumulation": BATCH_PAIRS},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_losses_margins_and_weights_agree_with_trl(tmp_path, case):
    folder = make_tiny_policy(tmp_path / "policies/v0000")
    max_tokens = 16384 if case["accumulation"] == 1 else 60
    steps, update, rows = our_run(
        tmp_path, folder, label_smoothing=case["label_smoothing"], max_tokens_per_microbatch=max_tokens
    )
    trl = trl_run(folder, rows, tmp_path / "trl", **case)

    assert len(steps) == len(trl.losses) == 6
    assert [step["loss"] for step in steps] == pytest.approx(trl.losses, abs=1e-4)
    assert max(trl.losses) - min(trl.losses) > 0.005  # a trajectory, not six times ln 2
    assert [s["reward_margin"] for s in steps] == pytest.approx([e["rewards/margins"] for e in trl.logged], abs=1e-4)
    assert [s["grad_norm"] for s in steps] == pytest.approx([float(e["grad_norm"]) for e in trl.logged], rel=1e-3)
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / update.policy_out.path)
    for (name, got), expected in zip(ours.named_parameters(), trl.model.parameters(), strict=True):
        torch.testing.assert_close(got, expected, atol=2e-4, rtol=0, msg=name)
