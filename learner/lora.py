"""A LoRA adapter in a model that is frozen otherwise: fp32 matrices beside weights in the policy's dtype or in NF4."""

import importlib
import importlib.util
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig as PeftLoraConfig
from peft import inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from learner.check import refuse_other_targets
from learner.config import LearnerConfig
from learner.lora_config import LoraConfig
from learner.model import load_model, named_dtype
from learner.ranks import Rows, whole_rows
from learner.state import AdapterShape
from rollout.errors import UsageError

_NAME = "default"  # what peft calls an adapter that nobody has named
_LORA_A, _LORA_B = f".lora_A.{_NAME}.weight", f".lora_B.{_NAME}.weight"


class Adapter:
    """The adapter inside `model`, whose layers peft has replaced in place: its decoder, head and names stay its own.

    parameters: its matrices; where ranks hold the model together, this rank's rows of them, which `rows` says.
    """

    def __init__(self, model: PreTrainedModel, *, shape: AdapterShape, config: PeftLoraConfig) -> None:
        self.model, self.shape, self.config = model, shape, config
        self.layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
        self.hold({name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad})

    def hold(self, parameters: Mapping[str, torch.nn.Parameter], rows: Mapping[str, Rows] | None = None) -> None:
        """Have these parameters from here on, once the model is shared out."""
        self.parameters = dict(parameters)
        self.rows = {name: whole_rows(p) for name, p in parameters.items()} if rows is None else dict(rows)

    @contextmanager
    def disabled(self) -> Iterator[PreTrainedModel]:
        """The base: the same weights without the adapter."""
        for layer in self.layers.values():
            layer.enable_adapters(False)
            # peft freezes what it switches off, and FSDP takes the dtype of sums from what is trainable when it begins.
            for part in layer.adapter_layer_names:
                getattr(layer, part).requires_grad_(True)
        try:
            yield self.model
        finally:
            for layer in self.layers.values():
                layer.enable_adapters(True)

    @contextmanager
    def holding(self, tensors: Mapping[str, Tensor]) -> Iterator[PreTrainedModel]:
        """The model with other matrices in its adapter, named as `parameters`; the own ones come back bit for bit."""
        own = self.copy()
        self.fill(tensors)
        try:
            yield self.model
        finally:
            self.fill(own)

    def copy(self) -> dict[str, Tensor]:
        return {name: parameter.detach().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(tensors[name])

    def changes(self, weight: str) -> bool:
        """Whether the adapter adds anything to the base's weight of this name."""
        return weight.endswith(".weight") and weight.removesuffix(".weight") in self.layers

    @torch.no_grad()
    def delta(self, weight: str, tensors: Mapping[str, Tensor]) -> Tensor:
        """What it adds to a weight of the base: alpha / rank B A, fp32 on the CPU. tensors: its matrices."""
        name = weight.removesuffix(".weight")
        layer = self.layers[name]
        lower_RI, upper_OR = (tensors[name + part].detach().cpu().float() for part in (_LORA_A, _LORA_B))
        delta_OI: Tensor = upper_OR @ lower_RI * layer.scaling[_NAME]
        return delta_OI.T if layer.fan_in_fan_out else delta_OI


def load_adapted(
    base: Path,
    settings: LearnerConfig,
    *,
    base_sha256: str,
    policy_dtype: str,
    compute_dtype: torch.dtype,
    device: torch.device,
    seed: int,
) -> Adapter:
    """The base policy, frozen, with a new adapter whose output is zero; seed decides its first matrices.

    The base keeps the policy's dtype where that is bfloat16 and products are, too, else it is float32. Raises
    UsageError where the settings do not fit the model or this machine.
    """
    lora = settings.lora
    assert lora is not None
    kept = torch.bfloat16 if (named_dtype(policy_dtype), compute_dtype) == (torch.bfloat16,) * 2 else torch.float32
    if lora.quantize is None:
        model = load_model(base, device=device, dtype=kept)
    else:
        check_quantization(device)
        model = _load_nf4(base, device=device, dtype=kept, compute_dtype=compute_dtype)
    return attach(model, lora, base_sha256=base_sha256, seed=seed)


def attach(model: PreTrainedModel, lora: LoraConfig, *, base_sha256: str, seed: int) -> Adapter:
    """Freeze a model and put an adapter into it. Raises UsageError for targets that it does not have."""
    names = linear_layers(model)
    targets = sorted(names) if lora.targets == "all-linear" else sorted(lora.targets)
    refuse_other_targets(targets, known=names)
    config = PeftLoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    model.requires_grad_(False)
    with torch.random.fork_rng(devices=[]):
        try:
            inject_adapter_in_model(config, model, adapter_name=_NAME)
        except ValueError as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"learner.lora cannot be used with {type(model).__name__}: {reason}") from error
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        is_ours = name.endswith((_LORA_A, _LORA_B))
        parameter.requires_grad_(is_ours)
        if is_ours:
            first = torch.zeros(parameter.shape)
            if name.endswith(_LORA_A):  # as peft does it, from a generator of our own
                torch.nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)
            parameter.data = first.to(parameter.device)
    shape = AdapterShape(
        base_sha256=base_sha256, rank=lora.rank, alpha=lora.alpha, targets=tuple(targets), quantize=lora.quantize
    )
    return Adapter(model.eval(), shape=shape, config=config)


def linear_layers(model: PreTrainedModel) -> set[str]:
    """Last parts of the names of the layers that can have an adapter: linear ones that are not the output head."""
    head = model.get_output_embeddings()
    linear = (torch.nn.Linear, Conv1D)
    return {
        name.rsplit(".", maxsplit=1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, linear) and module is not head
    }


def check_quantization(device: torch.device) -> None:
    """Raise UsageError unless bitsandbytes is here and its NF4 works on this device: tried on one small matrix."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError("learner.lora.quantize: nf4 needs bitsandbytes, which is not installed; leave it out")
    try:
        functional: Any = importlib.import_module("bitsandbytes.functional")
        weight = torch.linspace(-1, 1, 64 * 64, device=device).reshape(64, 64)
        packed, state = functional.quantize_4bit(weight, quant_type="nf4")
        error = (functional.dequantize_4bit(packed, state) - weight).abs().max().item()
    except (ImportError, RuntimeError, NotImplementedError, AttributeError, OSError) as problem:
        reason = (str(problem) or type(problem).__name__).splitlines()[0]
        raise UsageError(f"learner.lora.quantize: nf4 fails on {device} here: {reason}; leave it out") from problem
    if not error < 0.2:
        raise UsageError(f"learner.lora.quantize: nf4 does not work on {device}: it errs by {error:.3g}; leave it out")


def _load_nf4(base: Path, *, device: torch.device, dtype: torch.dtype, compute_dtype: torch.dtype) -> PreTrainedModel:
    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype,
    )
    try:
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=dtype, quantization_config=how, device_map={"": str(device)}, trust_remote_code=False
        )
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise UsageError(f"{base} cannot be loaded in 4 bits: {reason}; leave learner.lora.quantize out") from error
    return cast(PreTrainedModel, model.eval())
