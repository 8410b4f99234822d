"""Real processes that are the ranks of one learner, joined by gloo; they start fast, from one that has all imports."""

import multiprocessing
import traceback
from collections.abc import Callable
from typing import Any

import torch

from learner.rank_group import RankGroup, join_ranks, open_rendezvous

TIMEOUT_S = 60.0


def on_ranks(
    num_ranks: int,
    work: Callable[..., Any],
    *arguments: Any,
    num_shards: int | None = None,
    timeout_s: float = TIMEOUT_S,
    may_die: bool = False,
    **options: Any,
) -> list[Any]:
    """What work(ranks, *arguments) returns on every rank, or the exception that it raised; None of a rank that died.

    options: further ones of join_ranks.
    """
    store, host, port = open_rendezvous("127.0.0.1", num_ranks=num_ranks, timeout_s=timeout_s)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.tiny_learner", "learner.rank_group"])
    pipes, processes = [], []
    for rank in range(num_ranks):
        receiver, sender = context.Pipe(duplex=False)
        options |= {"rank": rank, "num_ranks": num_ranks, "num_shards": num_shards or num_ranks, "timeout_s": timeout_s}
        process = context.Process(target=_rank, args=(sender, (host, port), options, work, arguments), daemon=True)
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    found = []
    for rank, pipe in enumerate(pipes):
        try:
            assert pipe.poll(4 * timeout_s), f"rank {rank} said nothing"
            found.append(pipe.recv())
        except EOFError:
            assert may_die, f"rank {rank} ended without a word"
            found.append(None)
    for process in processes:
        process.join(timeout_s)
        assert process.exitcode is not None
    del store
    return found


def _rank(
    sender: Any, address: tuple[str, int], options: dict[str, Any], work: Callable[..., Any], arguments: Any
) -> None:
    torch.set_num_threads(1)
    try:
        ranks: RankGroup = join_ranks(address, device=torch.device("cpu"), roll_call_s=2.0, **options)
        found = work(ranks, *arguments)
        ranks.gather(None)  # nobody leaves before all have finished
    except Exception as error:
        traceback.print_exc()
        found = error
    sender.send(found)
    sender.close()
