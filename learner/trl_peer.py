"""Our training step beside that of TRL's DPOTrainer: same checkpoint, same token ids, step about, as JSON.

    python -m learner.trl_peer REQUEST      REQUEST: [{"side": "both|ours|trl", "dtype", "loss", "shape": {...}}, ...]

TRL tokenises text by itself; here its `_prepare_dataset` is passed over and it gets our token columns as they are,
unshuffled. Both sides compute the reference's log-probabilities once for each pair, within the time that is taken.
"""

import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch

from learner.bench_model import Shape, gemm_flops_per_s, make_checkpoint, make_pairs, needed_flops
from learner.config import LearnerConfig
from learner.logps import score
from learner.model import choose_compute_dtype, load_model
from learner.packing import pack
from learner.pairs import TokenPair, TrainingPair
from learner.trainer import Trainer

_LEARNING_RATE = 1e-5
_CPU = torch.device("cpu")


class Ours:
    """The reference is scored first and let go again: one model is resident."""

    def __init__(self, folder: Path, *, dtype: str, loss: str, **settings: Any) -> None:
        self.settings = LearnerConfig.model_validate(
            {"learning_rate": _LEARNING_RATE, "loss": loss, "device": "cpu", "compute_dtype": dtype, **settings}
        )
        self.compute_dtype = choose_compute_dtype(self.settings, _CPU)
        self.reference: Any = load_model(folder, device=_CPU).requires_grad_(False)
        model = load_model(folder, device=_CPU)
        self.trainer = Trainer(model, settings=self.settings, compute_dtype=self.compute_dtype, clock=time.perf_counter)
        self.scratch = folder / "postmortem"

    def scored(self, pairs: list[TokenPair]) -> list[TrainingPair]:
        rows = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
        max_tokens = self.settings.max_tokens_per_microbatch
        logps = score(self.reference, rows, compute_dtype=self.compute_dtype, max_tokens=max_tokens)
        sides = zip(pairs, logps[0::2], logps[1::2], strict=True)
        return [TrainingPair(pair=pair, ref_chosen_logps=w, ref_rejected_logps=r) for pair, w, r in sides]

    def learn(self, rows: list[TrainingPair]) -> float:
        return self.trainer.step(rows, learning_rate=_LEARNING_RATE, postmortem=self.scratch)["loss"]


def trl_trainer(folder: Path, shape: Shape, *, dtype: str, loss: str, between: Callable[[int], None]) -> Any:
    """TRL's trainer, which notes each step's seconds and loss, and calls `between` after each of them."""
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.started = time.perf_counter()

        def on_step_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
            trainer.seconds.append(time.perf_counter() - self.started)
            between(state.global_step - 1)

    class TokenDPOTrainer(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            result = super().compute_loss(*args, **kwargs)
            self.losses.append((result[0] if isinstance(result, tuple) else result).item())
            return result

    words = {"<pad>": 0, "<s>": 1, "</s>": 2}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="<pad>")), pad_token="<pad>", eos_token="</s>"
    )
    args = DPOConfig(
        output_dir=str(folder / "trl"),
        loss_type=[loss],
        learning_rate=_LEARNING_RATE,
        lr_scheduler_type="constant",
        per_device_train_batch_size=shape.pairs_per_step,
        num_train_epochs=1,
        max_length=None,
        weight_decay=0.0,
        bf16=dtype == "bfloat16",
        use_cpu=True,
        gradient_checkpointing=False,
        logging_steps=10**6,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    rows = [
        {
            "prompt": "",
            "chosen": "",
            "rejected": "",
            "prompt_ids": pair.chosen.prompt_ids.tolist(),
            "chosen_ids": pair.chosen.completion_ids.tolist(),
            "rejected_ids": pair.rejected.completion_ids.tolist(),
        }
        for pairs in make_pairs(shape)
        for pair in pairs
    ]
    trainer = TokenDPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        ref_model=AutoModelForCausalLM.from_pretrained(folder),
        args=args,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    trainer.losses, trainer.seconds = [], []
    return trainer


def step_about(folder: Path, shape: Shape, *, dtype: str, loss: str) -> dict[str, Any]:
    """Seconds and losses of both sides' steps (the first warms up), the operations needed, and the GEMM rate."""
    ours, steps = Ours(folder, dtype="auto" if dtype == "bfloat16" else dtype, loss=loss), make_pairs(shape)
    seconds: list[float] = []
    losses: list[float] = []
    rates: list[float] = []

    def our_step(number: int) -> None:
        started = time.perf_counter()
        losses.append(ours.learn(ours.scored(steps[number])))
        seconds.append(time.perf_counter() - started)
        rates.append(gemm_flops_per_s(shape))

    trainer = trl_trainer(folder, shape, dtype=dtype, loss=loss, between=our_step)
    trainer.train()
    return {
        "compute_dtype": str(ours.compute_dtype).removeprefix("torch."),
        "ours": {"seconds": seconds, "losses": losses},
        "trl": {"seconds": trainer.seconds, "losses": trainer.losses},
        "flops": [needed_flops(pairs, shape) for pairs in steps],
        "gemm_flops_per_s": rates,
    }


def our_steps(folder: Path, shape: Shape, *, dtype: str, loss: str, **settings: Any) -> dict[str, Any]:
    """Seconds of each of our own steps, reference and all, and the tokens that it computed, shared prompts once."""
    ours, seconds, tokens = Ours(folder, dtype=dtype, loss=loss, **settings), [], []
    for pairs in make_pairs(shape):
        started = time.perf_counter()
        ours.learn(ours.scored(pairs))
        seconds.append(time.perf_counter() - started)
        sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
        tokens.append(len(pack(sides, device=_CPU).input_ids_N))
    return {"seconds": seconds, "num_tokens": tokens}


def peak_bytes(folder: Path, shape: Shape, *, side: str, dtype: str, loss: str, **settings: Any) -> dict[str, Any]:
    """The process's peak during a step that is not the first, above what models, gradients and moments occupy.

    Resident memory after the imports is taken off too. The reference's weights are taken off where they are held.
    """
    process = psutil.Process()
    trainer: Any = None
    if side == "ours":
        before = process.memory_info().rss
        ours = Ours(folder, dtype=dtype, loss=loss, **settings)
        rows = [ours.scored(pairs) for pairs in make_pairs(shape)]
        ours.reference = None
        held = 16 * sum(parameter.numel() for parameter in ours.trainer.parameters.values())
        ours.learn(rows[0])
        with _watched(process) as peaks:
            ours.learn(rows[1])
    else:
        trl_trainer(folder, shape, dtype=dtype, loss=loss, between=_nothing)  # for its imports
        before = process.memory_info().rss
        with _watched(process) as peaks:
            trainer = trl_trainer(folder, shape, dtype=dtype, loss=loss, between=_nothing)
            held = 20 * sum(parameter.numel() for parameter in trainer.model.parameters())
            trainer.train()
    return {"peak_bytes": max(peaks) - before - held, "held_bytes": held}


def _nothing(number: int) -> None:
    """Between TRL's steps."""


@contextmanager
def _watched(process: psutil.Process, *, every_s: float = 0.005) -> Iterator[list[int]]:
    peaks, ended = [process.memory_info().rss], threading.Event()

    def watch() -> None:
        while not ended.wait(every_s):
            peaks.append(process.memory_info().rss)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peaks
    finally:
        ended.set()
        thread.join()


def main() -> None:
    """Answer the requests in the first argument with one line of JSON on standard output: a list, in their order."""
    requests = json.loads(sys.argv[1])
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no part of the answer
    print(json.dumps([_answer(**request) for request in requests]), file=answer_to, flush=True)


def _answer(*, side: str, dtype: str, loss: str, shape: dict[str, Any], **settings: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        found = Shape(**shape)
        folder = make_checkpoint(Path(name), found)
        if side == "both":
            return step_about(folder, found, dtype=dtype, loss=loss)
        if side == "steps":
            return our_steps(folder, found, dtype=dtype, loss=loss, **settings)
        return peak_bytes(folder, found, side=side, dtype=dtype, loss=loss, **settings)


if __name__ == "__main__":
    main()
