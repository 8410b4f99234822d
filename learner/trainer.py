"""One optimizer step of preference learning, top to bottom."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.batches import microbatches, num_tokens, pad
from learner.config import LearnerConfig
from learner.errors import DivergedError
from learner.logps import completion_logps, compute_in
from learner.loss import LOSSES, PairLogps
from learner.metrics import PassOutput, measure, token_kl_sums
from learner.pairs import TrainingPair
from learner.postmortem import write_batch


class Trainer:
    """fp32 masters, AdamW and the number of steps they have made together."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        settings: LearnerConfig,
        compute_dtype: torch.dtype,
        clock: Callable[[], float],
    ) -> None:
        self.model = model
        self.settings = settings
        self.compute_dtype = compute_dtype
        self.clock = clock
        self.num_steps = 0
        self.parameters: Mapping[str, torch.nn.Parameter] = dict(model.named_parameters())
        self.optimizer = build_optimizer(list(self.parameters.values()), settings)

    def step(self, pairs: Sequence[TrainingPair], *, learning_rate: float, postmortem: Path) -> dict[str, float]:
        """Learn from one batch and measure it, under the policy as it was before the step.

        Raises DivergedError before the optimizer moves where the loss or a gradient is not finite, and leaves the
        batch at `postmortem`.
        """
        started = self.clock()
        settings = self.settings
        lengths = [row.pair.length for row in pairs]
        cuts = microbatches(range(len(pairs)), lengths, max_tokens=settings.max_tokens_per_microbatch, rows_per_item=2)
        self.optimizer.zero_grad(set_to_none=True)
        outputs = []
        for cut in cuts:
            output = self.forward([pairs[i] for i in cut])
            # Divided by the pairs of the whole batch: the split into passes changes nothing.
            (output.loss_B.sum() / len(pairs)).backward()  # type: ignore[no-untyped-call]
            outputs.append(output)

        values = measure(outputs, beta=settings.beta)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters.values(), settings.max_grad_norm)
        values["grad_norm"] = float(norm)
        if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            self.optimizer.zero_grad(set_to_none=True)
            write_batch(postmortem, [pairs[i] for cut in cuts for i in cut], outputs)
            raise DivergedError(
                f"step {self.num_steps + 1} has loss {values['loss']} and gradient norm {values['grad_norm']}, "
                f"expected finite numbers; the optimizer did not move and the batch is at {postmortem}: look for log-"
                "probabilities that are not finite there, then lower learner.learning_rate or use float32"
            )

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.num_steps += 1
        total = sum(num_tokens(side) for row in pairs for side in (row.pair.chosen, row.pair.rejected))
        values["learning_rate"] = learning_rate
        values["num_pairs"] = len(pairs)
        values["num_tokens"] = total
        values["tokens_per_s"] = total / max(self.clock() - started, 1e-9)
        return values

    def forward(self, pairs: Sequence[TrainingPair]) -> PassOutput:
        """One pass over B pairs: chosen answers in the first B rows, rejected ones in the last B."""
        rows = [row.pair.chosen for row in pairs] + [row.pair.rejected for row in pairs]
        batch = pad(rows).to(self.model.device)
        with compute_in(self.compute_dtype, self.model.device):
            logps_BT = completion_logps(self.model, batch)
        ref_N = [row.ref_chosen_logps for row in pairs] + [row.ref_rejected_logps for row in pairs]
        ref_BT = _placed(ref_N, batch.completion_mask_BT, like=logps_BT)
        chosen_B, rejected_B = logps_BT.sum(dim=1).chunk(2)
        ref_chosen_B, ref_rejected_B = ref_BT.sum(dim=1).chunk(2)
        logps = PairLogps(
            chosen_logp_B=chosen_B,
            rejected_logp_B=rejected_B,
            ref_chosen_logp_B=ref_chosen_B,
            ref_rejected_logp_B=ref_rejected_B,
        )
        settings = self.settings
        loss_B = LOSSES[settings.loss](logps, beta=settings.beta, label_smoothing=settings.label_smoothing)
        sum_k1, sum_k3 = token_kl_sums(logps_BT, ref_BT, batch.completion_mask_BT)
        num_completion_tokens = sum(len(row.completion_ids) for row in rows)
        return PassOutput(
            logps=logps, loss_B=loss_B, sum_k1=sum_k1, sum_k3=sum_k3, num_completion_tokens=num_completion_tokens
        )


def build_optimizer(parameters: Sequence[torch.nn.Parameter], settings: LearnerConfig) -> torch.optim.AdamW:
    """AdamW in which norms and biases do not decay."""
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=settings.adam_betas,
        eps=settings.adam_epsilon,
        fused=True,
    )


def _placed(logps: Sequence[np.ndarray], mask_BT: Tensor, *, like: Tensor) -> Tensor:
    """Per-token values of each row at the places of its completion, zero elsewhere."""
    flat_N = torch.from_numpy(np.concatenate(logps)).to(like.device, like.dtype)
    return torch.zeros_like(like, requires_grad=False).masked_scatter(mask_BT, flat_N)
