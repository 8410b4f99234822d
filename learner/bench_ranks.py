"""Steps of one process on one core beside the same steps of two processes on two cores, in turns, as JSON.

python -m learner.bench_ranks REQUEST      REQUEST: {"shape": {...}, "num_ranks"}
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from learner.bench_model import Shape, make_checkpoint, make_pairs
from learner.config import LearnerConfig
from learner.logps import CompletionLogps, score
from learner.model import load_model
from learner.pairs import TokenPair, TrainingPair
from learner.rank_group import join_ranks, open_rendezvous
from learner.ranks import Ranks
from learner.trainer import Trainer

_CPU = torch.device("cpu")
_LEARNING_RATE = 1e-5
_TIMEOUT_S = 300.0


class Stepper:
    """One rank's trainer, on one thread and, where the system lets it, on a core of its own."""

    def __init__(self, folder: Path, ranks: Ranks, *, core: int) -> None:
        torch.set_num_threads(1)
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
        if len(cores) > core:
            os.sched_setaffinity(0, {cores[core]})
        self.settings = LearnerConfig(learning_rate=_LEARNING_RATE, device="cpu", compute_dtype="float32")
        self.ranks = ranks
        reference = load_model(folder, device=_CPU).requires_grad_(False)
        self.reference = CompletionLogps(reference, ranks=ranks)
        model = load_model(folder, device=_CPU)
        self.trainer = Trainer(
            model, settings=self.settings, compute_dtype=torch.float32, clock=time.perf_counter, ranks=ranks
        )

    def step(self, pairs: list[TokenPair], *, postmortem: Path) -> tuple[float, float]:
        """Seconds, and the loss; the reference's log-probabilities are part of the step."""
        self.ranks.gather(None)  # all start together
        started = time.perf_counter()
        sides = [side for pair in pairs for side in (pair.chosen, pair.rejected)]
        max_tokens = self.settings.max_tokens_per_microbatch
        logps = score(self.reference, sides, compute_dtype=torch.float32, max_tokens=max_tokens)
        rows = [
            TrainingPair(pair=pair, ref_chosen_logps=chosen, ref_rejected_logps=rejected)
            for pair, chosen, rejected in zip(pairs, logps[0::2], logps[1::2], strict=True)
        ]
        values = self.trainer.step(rows, learning_rate=_LEARNING_RATE, postmortem=postmortem)
        return time.perf_counter() - started, values["loss"]


def measure(shape: Shape, *, num_ranks: int) -> dict[str, Any]:
    """{"one": {"seconds", "losses"}, "many": {...}}; the first step of each warms up."""
    with tempfile.TemporaryDirectory() as name:
        folder = make_checkpoint(Path(name), shape)
        store, host, port = open_rendezvous("127.0.0.1", num_ranks=num_ranks, timeout_s=_TIMEOUT_S)
        context = multiprocessing.get_context("spawn")
        pipes = []
        for rank in range(-1, num_ranks):  # -1: the one alone
            ours, theirs = context.Pipe()
            arguments = (theirs, folder, shape, rank, num_ranks, (host, port))
            context.Process(target=_serve, args=arguments, daemon=True).start()
            theirs.close()  # so that a process that ends is noticed
            pipes.append(ours)
        for pipe in pipes:
            pipe.recv()
        found: dict[str, Any] = {side: {"seconds": [], "losses": []} for side in ("one", "many")}
        for number in range(shape.num_steps):
            for side, asked in (("one", pipes[:1]), ("many", pipes[1:])):
                for pipe in asked:
                    pipe.send(number)
                (seconds, loss), *_ = [pipe.recv() for pipe in asked]
                found[side]["seconds"].append(seconds)
                found[side]["losses"].append(loss)
        for pipe in pipes:
            pipe.send(None)
        del store
    return found


def _serve(pipe: Connection, folder: Path, shape: Shape, rank: int, num_ranks: int, address: tuple[str, int]) -> None:
    ranks = Ranks()
    if rank >= 0:
        ranks = join_ranks(
            address,
            rank=rank,
            num_ranks=num_ranks,
            num_shards=num_ranks,
            device=_CPU,
            timeout_s=_TIMEOUT_S,
            gather_once=True,
        )
    stepper, steps = Stepper(folder, ranks, core=max(0, rank)), make_pairs(shape)
    pipe.send("ready")
    while (number := pipe.recv()) is not None:
        pipe.send(stepper.step(steps[number], postmortem=folder / "postmortem"))


def main() -> None:
    """Answer the request in the first argument with one line of JSON on standard output."""
    request = json.loads(sys.argv[1])
    answer_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no part of the answer
    print(json.dumps(measure(Shape(**request["shape"]), num_ranks=request["num_ranks"])), file=answer_to, flush=True)


if __name__ == "__main__":
    main()
