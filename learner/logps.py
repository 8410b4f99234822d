"""Log-probabilities of completion tokens, without padding, repeated prompts or the logits of a whole batch."""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel

from learner import packed_attention
from learner.batches import Batch, microbatches, num_tokens, pad
from learner.dealing import STAND_IN, Item, passes_by_rank
from learner.head import TokenLogps, token_logps
from learner.packed_attention import PackedRow
from learner.packing import Packed, filled_up, pack, packed_microbatches
from learner.ranks import Ranks
from learner.sequence import TokenExchange, check_sequence_parallel
from rollout.types import Logps, TokenSequence

_log = logging.getLogger(__name__)


class CompletionLogps(torch.nn.Module):
    """Scores completions under one model: packed where its attention allows, else padded, said in the log.

    Where ranks are many, each keeps its part of the model and gathers the others' within a call, the head's too.
    certainty: see learner.head.TokenLogps.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        ranks: Ranks | None = None,
        compute_dtype: torch.dtype = torch.float32,
        certainty: bool = False,
    ) -> None:
        super().__init__()
        self.model = model
        self.ranks = ranks or Ranks()
        self._certainty = certainty
        reason = _why_not_packed(model)
        self.is_packed = reason is None
        if self.ranks.exchange is not None:
            check_sequence_parallel(model, self.ranks.num_sequence, why_not_packed=reason)
        if reason is not None:
            _say(type(model).__name__, reason)
        _add_rows_alone(model)
        blocks = getattr(model.get_decoder(), "layers", ())
        self.ranks.share_out(self, list(blocks), compute_dtype=compute_dtype)

    def forward(self, sequences: Sequence[TokenSequence]) -> "CompletionScores":
        """Scores of each of C completion tokens of S sequences; a float64 model gives float64."""
        lengths_S = torch.tensor([len(sequence.completion_ids) for sequence in sequences])
        mask_SC = (torch.arange(int(lengths_S.max())) < lengths_S[:, None]).to(self.model.device)
        if self.is_packed:
            packed = pack(sequences, device=self.model.device)
            found = packed_scores(self.model, packed, certainty=self._certainty, exchange=self.ranks.exchange)
            columns = [
                pad_sequence([x_M[row] for row in packed.rows], batch_first=True) for x_M in found if x_M is not None
            ]
        else:
            found = padded_scores(self.model, pad(sequences).to(self.model.device), certainty=self._certainty)
            nought_SC = torch.zeros_like(mask_SC, dtype=found.logps_N.dtype)
            columns = [nought_SC.masked_scatter(mask_SC, x_N) for x_N in found if x_N is not None]
        return CompletionScores(columns[0], mask_SC, *columns[1:])

    def passes(self, items: Sequence[Item], *, max_tokens: int) -> list[list[list[int]]]:
        """For each team of ranks its passes, as `cut` cuts its share of the items; see learner.dealing."""
        return passes_by_rank(
            items, lambda share: self.cut(share, max_tokens=max_tokens), num_ranks=self.ranks.num_teams
        )

    def join(self) -> Tensor:
        """Take part in a pass for which this rank has nothing: a nought with a gradient of noughts."""
        nought: Tensor = self([STAND_IN]).logps_SC.sum() * 0.0
        return nought

    def cut(self, items: Sequence[Item], *, max_tokens: int) -> list[list[int]]:
        """Passes of at most max_tokens over items that stay whole (a pair's two sequences, say), as their indices.

        Tokens are those that are computed: shared prompts count once in packed rows, padding counts in padded ones.
        """
        if self.is_packed:
            return packed_microbatches(items, max_tokens=max_tokens)
        lengths = [max(num_tokens(sequence) for sequence in item) for item in items]
        rows_per_item = max(len(item) for item in items)
        return microbatches(range(len(items)), lengths, max_tokens=max_tokens, rows_per_item=rows_per_item)


class CompletionScores(NamedTuple):
    """logps_SC: log-probabilities (nats, temperature 1), float32[S, C], zero beyond a row's completion, where mask_SC
    is false. certainty_SC: the policy's own at each place (learner.head.TokenLogps), where it was asked for."""

    logps_SC: Tensor
    mask_SC: Tensor
    certainty_SC: Tensor | None = None


def packed_scores(
    model: PreTrainedModel, packed: Packed, *, certainty: bool = False, exchange: TokenExchange | None = None
) -> TokenLogps:
    """Log-probability of every completion token of a packed row: float32[M]. The model's attention is ours.

    exchange: of the ranks that compute the row together; each has all values, and the gradient of its own tokens'.
    """
    packed = packed if exchange is None else filled_up(packed, multiple=exchange.num)
    num_tokens = len(packed.input_ids_N)
    own = slice(0, num_tokens) if exchange is None else exchange.own(num_tokens)
    row = PackedRow(packed.groups, num_tokens=num_tokens, device=model.device, exchange=exchange)
    # The decoder's attention reads its kind from the configuration, in the recomputation of checkpoints, too: so it
    # stays ours, which without a packed row is SDPA.
    model.config._attn_implementation = packed_attention.NAME
    decoder = model.get_decoder()
    hidden_ND = decoder(
        input_ids=packed.input_ids_N[None, own],
        position_ids=packed.position_ids_N[None, own],
        use_cache=False,
        packed_row=row,
    ).last_hidden_state[0]
    # A prompt's last place predicts the first token of each completion. The gradient of index_select adds them up
    # in a fixed order; that of plain indexing does not.
    if exchange is None:
        return _scored(model, hidden_ND.index_select(0, packed.predictors_M), packed.target_ids_M, certainty=certainty)
    here_M = (packed.predictors_M >= own.start) & (packed.predictors_M < own.stop)
    found = _scored(
        model,
        hidden_ND.index_select(0, packed.predictors_M[here_M] - own.start),
        packed.target_ids_M[here_M],
        certainty=certainty,
    )
    nought_M = torch.zeros(here_M.shape, dtype=found.logps_N.dtype, device=here_M.device)
    logps_M = exchange.total(nought_M.masked_scatter(here_M, found.logps_N))
    if found.certainty_N is None:
        return TokenLogps(logps_M, None)
    return TokenLogps(logps_M, exchange.total(nought_M.masked_scatter(here_M, found.certainty_N)))


def completion_logps(model: PreTrainedModel, batch: Batch, *, tile_elements: int | None = None) -> Tensor:
    """Log-probability (nats, temperature 1) of every completion token: float32[B, T], zero elsewhere.

    A float64 model gives float64.
    """
    logps_N = padded_scores(model, batch, tile_elements=tile_elements).logps_N
    logps_BT = torch.zeros(batch.input_ids_BT.shape, dtype=logps_N.dtype, device=logps_N.device)
    return logps_BT.masked_scatter(batch.completion_mask_BT, logps_N)


def padded_scores(
    model: PreTrainedModel, batch: Batch, *, certainty: bool = False, tile_elements: int | None = None
) -> TokenLogps:
    """Log-probability of every completion token of padded rows, row by row: float32[N].

    The decoder runs over all tokens but the head only over the positions that predict a completion token, and at
    most tile_elements logits are held at a time.
    """
    ids_BT, mask_BT = batch.input_ids_BT, batch.completion_mask_BT
    # Padding stands on the right and attention is causal: no real token sees any, so no mask is needed. The last
    # token of a row predicts nothing.
    decoder = model.get_decoder()
    hidden_BTD = decoder(input_ids=ids_BT[:, :-1], use_cache=False).last_hidden_state
    predicts_BT = mask_BT[:, 1:]
    return _scored(
        model, hidden_BTD[predicts_BT], ids_BT[:, 1:][predicts_BT], certainty=certainty, tile_elements=tile_elements
    )


def _scored(model: PreTrainedModel, hidden_ND: Tensor, targets_N: Tensor, **options: Any) -> TokenLogps:
    head = cast(torch.nn.Linear, model.get_output_embeddings())
    return token_logps(hidden_ND, head.weight, head.bias, targets_N, **options)


def compute_in(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Matrix products in `dtype`, sums and norms in fp32; nothing changes where dtype is float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype != torch.float32)


@torch.no_grad()
def score(
    model: PreTrainedModel | CompletionLogps,
    sequences: Sequence[TokenSequence],
    *,
    compute_dtype: torch.dtype,
    max_tokens: int,
) -> list[Logps]:
    """Log-probabilities of each sequence's completion, float32[T], in passes of at most max_tokens tokens.

    Ranks share the passes, and each has all values in the end.
    """
    logps_of = model if isinstance(model, CompletionLogps) else CompletionLogps(model)
    device = logps_of.model.device
    passes = logps_of.passes([(sequence,) for sequence in sequences], max_tokens=max_tokens)
    found: dict[int, Logps] = {}
    for cut in passes[logps_of.ranks.team]:
        with compute_in(compute_dtype, device):
            if not cut:
                logps_of.join()
                continue
            logps_SC, mask_SC, _ = logps_of([sequences[i] for i in cut])
        for row_C, mask_C, i in zip(logps_SC.cpu().numpy(), mask_SC.cpu().numpy(), cut, strict=True):
            found[i] = row_C[mask_C]
    logps_of.ranks.rest(logps_of)
    scored = {i: logps for own in logps_of.ranks.gather(found) for i, logps in own.items()}
    return [scored[i] for i in range(len(sequences))]


def probe_tolerance(model: PreTrainedModel) -> float:
    """Nats by which two ways to compute the same log-probability differ from rounding alone, with much to spare."""
    return 1e-3 if model.dtype in (torch.float32, torch.float64) else 0.25


def _add_rows_alone(model: PreTrainedModel) -> None:
    """Where input and output embeddings are one matrix, add the input's few rows to the gradient that the head makes.

    A second gradient of the whole vocabulary, nearly all of it zeros, would be the largest tensor of a step.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(embeddings) is torch.nn.Embedding and embeddings.weight is head.weight:
        embeddings.sparse = True


@cache
def _say(model: str, reason: str) -> None:
    """Once in a process."""
    _log.warning("%s is scored in padded rows, not in packed ones: %s", model, reason)


@torch.no_grad()
def _why_not_packed(model: PreTrainedModel) -> str | None:
    """None where a packed pass gives what padded ones give, else the reason why it cannot be used."""
    if model.config._attn_implementation == packed_attention.NAME:
        return None  # found before
    config: Any = model.config.get_text_config()
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if others:
        return f"its layers have {', '.join(sorted(others))}"
    if getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True):
        return "its attention has a sliding window"
    before = model.config._attn_implementation
    num = min(12, model.get_input_embeddings().weight.shape[0])
    ids = np.arange(num, dtype=np.int32)
    rows = [
        TokenSequence(prompt_ids=ids[:3], completion_ids=ids[3:8]),
        TokenSequence(prompt_ids=ids[:3], completion_ids=ids[:6]),
        TokenSequence(prompt_ids=ids[2:4], completion_ids=ids[4:8]),
    ]
    packed, batch = pack(rows, device=model.device), pad(rows).to(model.device)
    padded_N = completion_logps(model, batch)[batch.completion_mask_BT]
    reason: str | None = "it was not tried"
    try:
        packed_M = packed_scores(model, packed).logps_N
        difference = (packed_M - padded_N).abs().max().item()
        close = difference < probe_tolerance(model)
        reason = None if close else f"its log-probabilities differ by {difference:.3g} there, expected 0"
    except torch.OutOfMemoryError:
        raise  # says nothing about the model; what the log then blamed would be the wrong thing
    except (NotImplementedError, TypeError, RuntimeError) as error:
        # Refused by our attention, by a decoder that takes no such arguments, or by the compiler of the GPU's kernel.
        reason = (str(error) or type(error).__name__).splitlines()[0]
    finally:
        if reason is not None:
            model.config._attn_implementation = before
    return reason
