"""A sequence classifier in this process: rows of token ids in, raw logits out.

Where the score is read. Decoders (a linear `score` on the hidden states of a causal body: Llama, Qwen, Mistral, GPT-2
and their kin) are read here at the last real token: the model's own forward pass looks for the last token that is no
padding id, and finds the wrong one where padding and end of sequence share an id. All other classifiers (BERT and its
kin) have heads with a pooling of their own, which are used as they are, under the attention mask.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from judge.reward.source import Logits, check_label
from rollout.errors import DataError, InfraError, UsageError
from rollout.types import TokenIds


class LocalClassifier:
    """A model from a folder; its body in `dtype`, its head in float32. Raises UsageError for a wrong head."""

    def __init__(
        self,
        folder: Path,
        *,
        tokenizer: PreTrainedTokenizerBase,
        label: int | None = None,
        dtype: str = "float32",
        device: str | None = None,
    ) -> None:
        model = load_classifier(folder, dtype=getattr(torch, dtype))
        check_label(int(model.config.num_labels), label, str(folder))
        self._pad_id = choose_pad(tokenizer, model)
        self._head = decoder_head(model)
        restore_heads(model, folder)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._model: Any = model.to(place)
        self._device = place

    def logits(self, rows: Sequence[TokenIds]) -> list[Logits | DataError]:
        """Raw logits of each row, in one forward pass; a pass that fails is halved until the row at fault stands alone.

        Raises InfraError where the device works no more.
        """
        try:
            return list(self.forward(rows).tolist())
        except torch.AcceleratorError as error:
            raise InfraError(f"the judge's device failed: {str(error).splitlines()[0]}; restart the judge") from error
        except Exception as error:  # whatever goes wrong in a model concerns its row, not the run
            if isinstance(error, torch.cuda.OutOfMemoryError):
                torch.cuda.empty_cache()
            if len(rows) == 1:
                return [DataError("judge_raised", f"{type(error).__name__}: {error}"[:500])]
            half = len(rows) // 2
            return self.logits(rows[:half]) + self.logits(rows[half:])

    @torch.inference_mode()
    def forward(self, rows: Sequence[TokenIds]) -> Tensor:
        """One pass: float32[B, num_labels], padded on the right to the longest row."""
        ids_BT, mask_BT = pad_rows(rows, self._pad_id)
        ids_BT, mask_BT = ids_BT.to(self._device), mask_BT.to(self._device)
        if self._head is None:
            return self._model(input_ids=ids_BT, attention_mask=mask_BT).logits.float().cpu()  # type: ignore[no-any-return]
        hidden_BTD = self._model.base_model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).last_hidden_state
        last_BD = hidden_BTD[torch.arange(len(rows), device=self._device), mask_BT.sum(dim=1) - 1]
        return self._head(last_BD.float()).cpu()  # type: ignore[no-any-return]


def load_classifier(folder: Path, *, dtype: torch.dtype) -> PreTrainedModel:
    """Load a classifier without dropout. Raises UsageError where it cannot be, or its head is not in the files."""
    try:
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=dtype, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{folder} is no sequence classifier that can be loaded: {reason}") from error
    if missing := sorted(loading["missing_keys"]):
        raise UsageError(
            f"{folder} lacks weights of {type(model).__name__} ({', '.join(missing[:3])}), which would be random; "
            "choose a model whose head was trained, or make one with `rondo reward-model fit`"
        )
    return model.eval()


def decoder_head(model: PreTrainedModel) -> nn.Linear | None:
    """The linear head of a decoder, None for classifiers that pool by themselves."""
    head = getattr(model, "score", None)
    return head if isinstance(head, nn.Linear) else None


def restore_heads(model: PreTrainedModel, folder: Path) -> None:
    """Whatever stands on the model's body computes in float32, with its weights as precise as they were saved."""
    heads = {name: child for name, child in model.named_children() if child is not model.base_model}
    wanted = {
        f"{name}.{key}": weight for name, head in heads.items() for key, weight in head.float().named_parameters()
    }
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in wanted.keys() & set(file.keys()):
                with torch.no_grad():
                    wanted[key].copy_(file.get_tensor(key).float())
    for head in heads.values():
        head.register_forward_pre_hook(_as_float)


def _as_float(head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(one.float() if isinstance(one, Tensor) and one.is_floating_point() else one for one in inputs)


def choose_pad(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> int:
    """An id that is never an end of sequence: the tokenizer's padding, else the model's, else any other."""
    ends = model.config.eos_token_id
    taken = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    candidates = [tokenizer.pad_token_id, model.config.pad_token_id, *range(len(taken) + 1)]
    return next(int(each) for each in candidates if each is not None and each not in taken)


def pad_rows(rows: Sequence[TokenIds], pad_id: int) -> tuple[Tensor, Tensor]:
    """int64[B, T] ids and mask, padded on the right."""
    longest = max(map(len, rows))
    ids_BT = torch.full((len(rows), longest), pad_id, dtype=torch.int64)
    mask_BT = torch.zeros_like(ids_BT)
    for place, row in enumerate(rows):
        ids_BT[place, : len(row)] = torch.from_numpy(row)
        mask_BT[place, : len(row)] = 1
    return ids_BT, mask_BT
