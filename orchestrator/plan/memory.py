"""What the learner and an engine hold in the memory of one GPU, by part."""

from dataclasses import dataclass

from learner.config import LearnerConfig
from orchestrator.config import RunConfig
from orchestrator.plan.model_shape import BYTES, ModelShape

_FP32, _BF16 = 4, 2
_NF4 = 0.5 + 4 / 64  # four bits, and a scale for each 64 of them
_ENGINE_WORKSPACE = 3e9  # activations of a prefill, CUDA graphs, the CUDA context
_LEARNER_WORKSPACE = 2e9  # the CUDA context, and what the allocator cannot hand out again


@dataclass(frozen=True, kw_only=True)
class EngineMemory:
    """Bytes on each GPU of one engine; num_cached: positions whose keys and values fit into all of them together."""

    parts: dict[str, float]
    num_cached: float


def learner_memory(shape: ModelShape, config: RunConfig) -> dict[str, float]:
    """Bytes on the GPU of one rank, by part; what is not there at the same time as the most of the rest is left out.

    Masters, gradients and moments are fp32 and shared out among the ranks of one copy; the matrices of a pass are cast
    to bf16, and kept until its backward. The reference is a second model in fp32, there while it scores a round's
    pairs, when there are no gradients and no activations yet.
    """
    settings, num = config.learner, shape.num_parameters
    if settings.lora is not None:
        return _adapter_memory(shape, config)
    own = num / settings.num_shards
    held = {"weights": _FP32 * own, "optimizer": _moments(settings) * own}
    if settings.reference == "ema":
        held["moving reference"] = _FP32 * own
    learning = {
        "gradients": _FP32 * own,
        "bf16 copies": _BF16 * (own if settings.num_shards > 1 and not settings.gather_once else float(num)),
        "activations": activation_bytes(shape, settings),
    }
    scoring = {"reference": _FP32 * own} if settings.reference in ("base", "round_start") else {}
    kept = {} if settings.offload == "none" else {"optimizer": 0.0} if settings.offload == "optimizer" else None
    beside_reference = 0.0 if kept is None else sum({**held, **kept}.values())
    if sum(scoring.values()) + beside_reference > sum(held.values()) + sum(learning.values()):
        return {**held, **(kept or {}), **scoring, "workspace": _LEARNER_WORKSPACE}
    return {**held, **learning, "workspace": _LEARNER_WORKSPACE}


def activation_bytes(shape: ModelShape, settings: LearnerConfig) -> float:
    """What a forward pass keeps for its backward, in bf16, at learner.max_tokens_per_microbatch tokens.

    A block keeps its input, both normalised copies of it, queries, keys, values, the heads' output, and gate, up, their
    product and the activation; attention weights are never kept. With checkpoints each block keeps its input alone, and
    one block all of it.
    """
    heads = 2 * shape.num_heads * shape.head_size + 2 * shape.num_kv_heads * shape.head_size
    block = 4 * shape.hidden_size + heads + 4 * shape.intermediate_size * shape.experts_per_token
    if settings.activation_checkpointing == "blocks":
        width = shape.num_layers * shape.hidden_size + block
    else:
        width = shape.num_layers * block
    return float(_BF16 * width * settings.max_tokens_per_microbatch)


def engine_memory(shape: ModelShape, config: RunConfig, *, memory_bytes: float) -> EngineMemory:
    """Bytes on each GPU of an engine: its share of the weights, and the cache in what is left of its part."""
    settings = config.rollout
    width, degree = BYTES[config.policy.dtype], settings.tensor_parallel_size
    weights = shape.num_parameters * width / degree
    room = memory_bytes * settings.gpu_memory_utilization - weights - _ENGINE_WORKSPACE
    cache = room if settings.kv_cache_gib is None else settings.kv_cache_gib * 2**30
    each = shape.cache_bytes(width) / min(degree, shape.num_kv_heads)
    parts = {"weights": weights, "KV cache": max(cache, 0.0), "workspace": _ENGINE_WORKSPACE}
    return EngineMemory(parts=parts, num_cached=max(cache, 0.0) / each)


def _adapter_memory(shape: ModelShape, config: RunConfig) -> dict[str, float]:
    settings = config.learner
    assert settings.lora is not None
    base = _NF4 if settings.lora.quantize == "nf4" else BYTES[config.policy.dtype]
    trained = adapter_parameters(shape, settings.lora.rank)
    return {
        "weights": base * shape.num_parameters + _FP32 * trained,
        "optimizer": _moments(settings) * trained,
        "gradients": float(_FP32 * trained),
        "activations": activation_bytes(shape, settings),
        "workspace": _LEARNER_WORKSPACE,
    }


def adapter_parameters(shape: ModelShape, rank: int) -> int:
    """Weights of low-rank matrices beside every linear layer of every block."""
    queries, keys = shape.num_heads * shape.head_size, shape.num_kv_heads * shape.head_size
    attention = 2 * (shape.hidden_size + queries) + 2 * (shape.hidden_size + keys)
    return rank * shape.num_layers * (attention + 3 * (shape.hidden_size + shape.intermediate_size) * shape.num_experts)


def _moments(settings: LearnerConfig) -> float:
    return 2.0 * _FP32 if settings.optimizer == "adamw" else 2.0 * (1 + 4 / 256)
