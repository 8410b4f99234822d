"""TRL's DPOTrainer takes a pair shard as `datasets` opens it."""

import datasets
import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from judge.config import FunctionJudge
from judge.worker import JudgeWorker
from tests.support.tiny_groups import make_group, make_shard
from tests.support.tiny_policy import make_tiny_policy

pytestmark = pytest.mark.integration


def prefers_longer(completions, **columns):
    return [float(len(completion[0]["content"])) for completion in completions]


async def test_trl_trains_on_the_columns_of_a_pair_shard_as_they_are(tmp_path):
    from trl import DPOConfig, DPOTrainer

    groups = [make_group(["a good answer", "no"], question=f"question {n}?", level=n) for n in range(4)]
    settings = FunctionJudge(target=f"{__name__}:prefers_longer")
    worker = JudgeWorker(settings=settings, run_dir=tmp_path, run_id="run")
    shard = await worker.build(make_shard(tmp_path, groups), verdict_dir="verdicts", pair_dir="pairs")
    assert shard.num_pairs == 4
    rows = datasets.load_dataset(
        "arrow", data_files=str(tmp_path / shard.path), split="train", cache_dir=str(tmp_path / "cache")
    )
    folder = make_tiny_policy(tmp_path / "policy")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    trainer = DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        args=DPOConfig(
            output_dir=str(tmp_path / "out"),
            max_steps=1,
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            logging_steps=1,
            report_to=[],
            save_strategy="no",
        ),
        train_dataset=rows,
        processing_class=tokenizer,
    )
    trainer.train()
    (logged,) = [line for line in trainer.state.log_history if "loss" in line]
    assert logged["loss"] == pytest.approx(0.6931, abs=1e-3)  # ln 2: before its first step the policy is the reference
    row = trainer.train_dataset[0]
    # TRL tokenises the text again; it is our messages that it has read, so its answer is the chosen one.
    assert tokenizer.decode(row["chosen_ids"], skip_special_tokens=True) == "a good answer"
    assert tokenizer.decode(row["rejected_ids"], skip_special_tokens=True) == "no"
