"""One optimizer step of preference learning, top to bottom."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from learner.adaptive import ObjectiveState, advanced, batch_beta, kept_weights
from learner.batches import num_tokens
from learner.blocks import apply_to_blocks
from learner.config import LearnerConfig
from learner.errors import DivergedError
from learner.logps import CompletionLogps, compute_in, score
from learner.lora import Adapter
from learner.loss import BatchTerms, rewards, total_loss
from learner.losses.pair_logps import PairLogps, pair_logps
from learner.metrics import PassOutput, gathered, measure, token_kl_sums
from learner.moving import MovingReference
from learner.optimizers import build_optimizer
from learner.pairs import TrainingPair
from learner.postmortem import write_batch
from learner.ranks import Ranks
from learner.state import AdapterShape
from learner.whole_batch import Loss, backward_whole_batch


class Trainer:
    """fp32 masters of what is trained (all weights, or those of `adapter`), AdamW, the number of steps they have made
    together, and what the objective remembers of them."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        settings: LearnerConfig,
        compute_dtype: torch.dtype,
        clock: Callable[[], float],
        moving: MovingReference | None = None,
        ranks: Ranks | None = None,
        adapter: Adapter | None = None,
    ) -> None:
        self.model = model
        self.ranks = ranks or Ranks()
        self.settings = settings
        self.compute_dtype = compute_dtype
        self.clock = clock
        self.num_steps = 0
        self.moving = moving
        self.adapter = adapter
        self.objective = ObjectiveState()
        self.completion_logps = CompletionLogps(
            model, ranks=self.ranks, compute_dtype=compute_dtype, certainty=settings.weighs_certainty
        )
        apply_to_blocks(model, settings)
        masters, rows = self.ranks.masters(model), self.ranks.rows(model)
        self.parameters = {name: parameter for name, parameter in masters.items() if parameter.requires_grad}
        self.rows = {name: rows[name] for name in self.parameters}
        if adapter is not None:
            adapter.hold(self.parameters, self.rows)
        self.optimizer = build_optimizer(list(self.parameters.values()), settings)

    @property
    def shape(self) -> AdapterShape | None:
        """What the adapter's matrices belong to; None where all weights are trained."""
        return None if self.adapter is None else self.adapter.shape

    def step(self, pairs: Sequence[TrainingPair], *, learning_rate: float, postmortem: Path) -> dict[str, float]:
        """Learn from one batch and measure it, under the policy as it was before the step.

        Raises DivergedError before the optimizer moves where the loss or a gradient is not finite, and leaves the
        batch at `postmortem`.
        """
        started = self.clock()
        settings = self.settings
        if self.moving is not None:
            pairs = self.moving.rescored(pairs)
        passes = self.completion_logps.passes(
            [row.sides for row in pairs], max_tokens=settings.max_tokens_per_microbatch
        )
        self._forget_gradients()
        terms = self._terms(pairs)
        outputs = self._backward(pairs, passes, terms)

        values = measure(outputs, beta=terms.beta)
        values["grad_norm"] = self._clip()
        if not (math.isfinite(values["loss"]) and math.isfinite(values["grad_norm"])):
            self._forget_gradients()
            learnt = [pairs[i] for own in passes for cut in own for i in cut]
            self.ranks.from_first(lambda: write_batch(postmortem, learnt, outputs))
            raise DivergedError(
                f"step {self.num_steps + 1} has loss {values['loss']} and gradient norm {values['grad_norm']}, "
                f"expected finite numbers; the optimizer did not move and the batch is at {postmortem}: look for log-"
                "probabilities that are not finite there, then lower learner.learning_rate or use float32"
            )

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.step()
        self.num_steps += 1
        values |= self._adapted(values, terms, num_pairs=len(pairs))
        total = sum(num_tokens(side) for row in pairs for side in (row.pair.chosen, row.pair.rejected))
        values["learning_rate"] = learning_rate
        values["num_pairs"] = len(pairs)
        values["num_tokens"] = total
        values["tokens_per_s"] = total / max(self.clock() - started, 1e-9)
        return values

    def _terms(self, pairs: Sequence[TrainingPair]) -> BatchTerms:
        """What the losses take of the whole batch before any of its passes."""
        sides = [side for row in pairs for side in row.sides]
        return BatchTerms(
            beta=self.settings.beta * self.objective.beta_scale,
            reward_shift=self.objective.reward_mean if self.settings.bco_shift == "running_mean" else 0.0,
            kl_estimate=self._kl_estimate([row.mismatched for row in pairs if row.mismatched is not None]),
            answers_per_row=max(1, sum(len(side.completion_ids) > 0 for side in sides)) / len(pairs),
        )

    def _kl_estimate(self, mismatched: Sequence[TrainingPair]) -> float:
        """KTO's z0: mean log ratio (nats an answer) of other prompts' answers, never below zero."""
        if not mismatched:
            return 0.0
        sides = [side for row in mismatched for side in row.sides]
        references = [logps for row in mismatched for logps in (row.ref_chosen_logps, row.ref_rejected_logps)]
        max_tokens = self.settings.max_tokens_per_microbatch
        policies = score(self.completion_logps, sides, compute_dtype=self.compute_dtype, max_tokens=max_tokens)
        ratios = [
            float(np.sum(ours, dtype=np.float64) - np.sum(theirs, dtype=np.float64))
            for ours, theirs in zip(policies, references, strict=True)
            if theirs is not None and len(ours)
        ]
        return max(0.0, math.fsum(ratios) / len(ratios)) if ratios else 0.0

    def _backward(
        self, pairs: Sequence[TrainingPair], passes: Sequence[Sequence[Sequence[int]]], terms: BatchTerms
    ) -> list[PassOutput]:
        """Leave the batch's gradient with the masters; what every rank's passes gave, in the order of the ranks."""
        if self.settings.whole_batch:
            order = [i for own in passes for cut in own for i in cut]
            outputs = backward_whole_batch(
                [[pairs[i] for i in cut] for cut in passes[self.ranks.team]],
                self.forward,
                lambda logps: self._batch_loss(logps, terms, order),
                join=self._join,
                ranks=self.ranks,
            )
        else:
            outputs = []
            for cut in passes[self.ranks.team]:
                if not cut:
                    self._join().backward()  # type: ignore[no-untyped-call]
                    continue
                output = self.forward([pairs[i] for i in cut], lambda logps: total_loss(logps, self.settings, terms))
                # Divided by the pairs of the whole batch: the split into passes and ranks changes nothing.
                (output.loss_B.sum() / len(pairs)).backward()  # type: ignore[no-untyped-call]
                outputs.append(output)
            outputs = gathered(outputs, self.ranks)
        self.ranks.collect_gradients(self.model, self.parameters)
        return outputs

    def _join(self) -> Tensor:
        with compute_in(self.compute_dtype, self.model.device):
            return self.completion_logps.join()

    def _forget_gradients(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.model.zero_grad(set_to_none=True)  # where ranks are many, the masters are not the model's own parameters

    def _clip(self) -> float:
        """Clip the gradient to max_grad_norm; the norm that it had."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        norm = self.ranks.norm(torch.nn.utils.get_total_norm(gradients))
        torch.nn.utils.clip_grads_with_norm_(self.parameters.values(), self.settings.max_grad_norm, norm)
        return float(norm)

    def _batch_loss(self, logps: PairLogps, terms: BatchTerms, order: Sequence[int]) -> Tensor:
        """The objective over a whole batch, with beta-DPO's beta and filter where they are on.

        order[k]: the pair of the batch that stands in row k.
        """
        settings = self.settings
        if not settings.beta_dpo_alpha:
            return total_loss(logps, settings, terms)
        chosen_B, rejected_B = rewards(logps, beta=terms.beta)
        margin_B = chosen_B - rejected_B
        beta = batch_beta(float(margin_B.mean()), beta=terms.beta, settings=settings, state=self.objective)
        loss_B = total_loss(logps, settings, replace(terms, beta=beta))
        if settings.beta_dpo_keep < 1:
            # Drawn for the pairs in the batch's own order, so that the split into passes and ranks changes nothing.
            weights_B = kept_weights(margin_B[np.argsort(order)], settings=settings, state=self.objective)
            loss_B = loss_B * weights_B[list(order)]
        return loss_B

    def _adapted(self, values: Mapping[str, float], terms: BatchTerms, *, num_pairs: int) -> dict[str, float]:
        """Bring the objective's memory and a moving reference up to this step; the beta used, where it varies."""
        settings, before = self.settings, self.objective
        self.objective = advanced(before, settings, values, num_pairs=num_pairs)
        if self.moving is not None:
            self.moving.follow(self.parameters, step=self.num_steps)
        if settings.beta_dpo_alpha:
            return {"beta": batch_beta(values["reward_margin"], beta=terms.beta, settings=settings, state=before)}
        return {"beta": terms.beta} if settings.kl_target is not None else {}

    def forward(self, pairs: Sequence[TrainingPair], loss: Loss) -> PassOutput:
        """One pass over B pairs: chosen answers in the first B rows, rejected ones in the last B."""
        rows = [row.pair.chosen for row in pairs] + [row.pair.rejected for row in pairs]
        with compute_in(self.compute_dtype, self.model.device):
            logps_BT, mask_BT, certainty_BT = self.completion_logps(rows)
        ref_N = [row.ref_chosen_logps for row in pairs] + [row.ref_rejected_logps for row in pairs]
        known_N = [logps for logps in ref_N if logps is not None]
        ref_BT = _placed(known_N, mask_BT, like=logps_BT) if known_N else None
        sampled = [row.pair.sampled_chosen_logp for row in pairs] + [row.pair.sampled_rejected_logp for row in pairs]
        logps = pair_logps(
            logps_BT,
            ref_BT,
            mask_BT,
            certainty_RT=certainty_BT,
            tied_B=torch.tensor([row.pair.tied for row in pairs], device=logps_BT.device),
            sampled_R=torch.tensor(sampled, dtype=logps_BT.dtype, device=logps_BT.device),
        )
        loss_B = loss(logps)
        sum_k1, sum_k3 = token_kl_sums(logps_BT, logps_BT.detach() if ref_BT is None else ref_BT, mask_BT)
        num_completion_tokens = sum(len(row.completion_ids) for row in rows)
        return PassOutput(
            logps=logps, loss_B=loss_B, sum_k1=sum_k1, sum_k3=sum_k3, num_completion_tokens=num_completion_tokens
        )


def _placed(logps: Sequence[np.ndarray], mask_BT: Tensor, *, like: Tensor) -> Tensor:
    """Per-token values of each row at the places of its completion, zero elsewhere."""
    flat_N = torch.from_numpy(np.concatenate(logps)).to(like.device, like.dtype)
    return torch.zeros_like(like, requires_grad=False).masked_scatter(mask_BT, flat_N)
