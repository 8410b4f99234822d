"""What is left of a batch that gave a loss or gradient that is not finite."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import torch

from learner.metrics import PassOutput
from learner.pairs import TrainingPair
from rollout.shards import LOGPS, write_shard


def write_batch(path: Path, rows: Sequence[TrainingPair], outputs: Sequence[PassOutput]) -> None:
    """Write an Arrow file with one row a pair: its tokens, the reference's and the policy's view, and its loss.

    rows stand in the order of the outputs' pairs.
    """

    def column(name: str) -> list[float]:
        values: list[float] = torch.cat([getattr(output.logps, name).detach() for output in outputs]).tolist()
        return values

    table = pa.table(
        {
            "pair_id": [row.pair.pair_id for row in rows],
            "prompt_ids": [row.pair.chosen.prompt_ids for row in rows],
            "chosen_ids": [row.pair.chosen.completion_ids for row in rows],
            "rejected_ids": [row.pair.rejected.completion_ids for row in rows],
            "ref_chosen_logps": pa.array([row.ref_chosen_logps for row in rows], LOGPS),
            "ref_rejected_logps": pa.array([row.ref_rejected_logps for row in rows], LOGPS),
            "chosen_logp": column("chosen_logp_B"),
            "rejected_logp": column("rejected_logp_B"),
            "loss": torch.cat([output.loss_B.detach() for output in outputs]).tolist(),
        }
    )
    write_shard(path, table)
