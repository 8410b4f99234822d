"""The engine that fast ones are held against: transformers, one sequence at a time, bit-reproducible."""

import asyncio
import copy
import hashlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from rollout.adapter import adapter_rank, base_folder
from rollout.config import RolloutConfig
from rollout.engine import completion_budget, context_tokens
from rollout.errors import InfraError
from rollout.types import Completion, LoadReport, Logps, PolicyRef, Road, Sampling, TokenIds, TokenSequence, WeightSpan
from rollout.weight_source import WeightSource
from rollout.weights import refuse_other_weights, weight_shapes, weights_size_bytes

T = TypeVar("T")


class ReferenceEngine:
    """See `rollout.engine.Engine`. The same key, weights and thread count give the same bits, in any order of calls.

    seed: the run's seed, mixed into the seed of every completion; dtype: a torch dtype by name; index: the engine's
    number, on which nothing depends here.
    """

    def __init__(
        self,
        *,
        stop_ids: Sequence[int],
        settings: RolloutConfig | None = None,
        dtype: str = "float32",
        seed: int = 0,
        index: int = 0,
    ) -> None:
        self._settings = settings or RolloutConfig()
        self._stop_ids = frozenset(stop_ids)
        self._dtype = dtype
        self._seed = seed
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="reference-engine")
        self._model: Any = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self.policy: PolicyRef | None = None
        self.context_tokens = 0

    @staticmethod
    def warm() -> None:
        """Nothing is left to import ahead of start()."""

    async def start(self, policy: PolicyRef, path: Path) -> None:
        if self.policy != policy:
            self._shapes = {}
            await self._run(lambda: self._load(policy, path))

    async def load(self, policy: PolicyRef, path: Path, weights: WeightSource | None = None) -> LoadReport:
        started = time.monotonic()
        road = await self._run(lambda: self._replace(policy, path, weights))
        size_bytes = weights_size_bytes(path)
        return LoadReport(version=policy.version, seconds=time.monotonic() - started, size_bytes=size_bytes, road=road)

    async def generate(self, prompt_token_ids: TokenIds, sampling: Sampling, *, key: str) -> tuple[Completion, ...]:
        deadline = time.monotonic() + self._settings.generate_timeout_s
        return await self._run(lambda: self._generate(prompt_token_ids, sampling, key, deadline))

    async def score(self, sequence: TokenSequence) -> Logps:
        return await self._run(lambda: self._score(sequence))

    async def close(self) -> None:
        self.policy = self._model = None

    async def _run(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    def _load(self, policy: PolicyRef, path: Path) -> None:
        self.policy = None
        base = base_folder(path)
        shapes = weight_shapes(base)
        if self._shapes:
            refuse_other_weights(self._shapes, shapes, path)
        self._model = AutoModelForCausalLM.from_pretrained(base, dtype=getattr(torch, self._dtype))
        if base != path:
            adapter_rank(path)  # whole?
            from peft import PeftModel

            self._model = PeftModel.from_pretrained(self._model, path)
        self._model.to(self._device).eval()
        self._shapes = shapes
        self.context_tokens = context_tokens(base, self._settings.max_model_len)
        self.policy = policy

    @torch.no_grad()
    def _replace(self, policy: PolicyRef, path: Path, weights: WeightSource | None) -> Road:
        """Copy new weights over those in place, by name; where a model has other names than its files, load these."""
        held = {} if self.policy is None else self._model.state_dict()
        if weights is None or not weights.shapes().keys() <= held.keys():
            self._load(policy, path)
            return "folder" if base_folder(path) == path else "adapter"
        self.policy = None
        refuse_other_weights(self._shapes, weights.shapes(), path)
        for name, tensor in weights.tensors():
            held[name].copy_(tensor)
        self.policy = policy
        return weights.road

    def _ready(self) -> PolicyRef:
        if self.policy is None:
            raise InfraError("the reference engine holds no policy: it was not started, or its last load failed")
        return self.policy

    @torch.inference_mode()
    def _generate(
        self, prompt_token_ids: TokenIds, sampling: Sampling, key: str, deadline: float
    ) -> tuple[Completion, ...]:
        version = self._ready().version
        budget = completion_budget(len(prompt_token_ids), sampling, self.context_tokens)
        prompt = torch.from_numpy(prompt_token_ids.astype(np.int64))[None].to(self._device)
        prefill = self._model(input_ids=prompt, use_cache=True, logits_to_keep=1)
        completions = []
        for index in range(sampling.num_completions):
            seed = _completion_seed(self._seed, key, index)
            token_ids, logps = self._sample(prefill, sampling, budget, seed, deadline)
            completions.append(
                Completion(
                    index=index,
                    token_ids=np.array(token_ids, np.int32),
                    logps=np.array(logps, np.float32),
                    text="",
                    finish_reason="stop" if token_ids[-1] in self._stop_ids else "length",
                    seed=seed,
                    weight_versions=(WeightSpan(version=version, start=0, end=len(token_ids)),),
                )
            )
        return tuple(completions)

    def _sample(
        self, prefill: Any, sampling: Sampling, budget: int, seed: int, deadline: float
    ) -> tuple[list[int], list[float]]:
        generator = torch.Generator().manual_seed(seed)
        output, token_ids, logps = prefill, list[int](), list[float]()
        cache = copy.deepcopy(prefill.past_key_values)
        while True:
            logps_V = _sampling_logps(output.logits[0, -1].float().cpu(), sampling)
            token_id = _draw(logps_V, sampling, generator)
            token_ids.append(token_id)
            logps.append(float(logps_V[token_id]))
            if token_id in self._stop_ids or len(token_ids) == budget:
                return token_ids, logps
            if time.monotonic() > deadline:
                raise InfraError(
                    f"a completion was at token {len(token_ids)} of at most {budget} when "
                    f"rollout.generate_timeout_s = {self._settings.generate_timeout_s:g} s were over"
                )
            step = torch.tensor([[token_id]], device=self._device)
            output = self._model(input_ids=step, past_key_values=cache, use_cache=True)

    @torch.inference_mode()
    def _score(self, sequence: TokenSequence) -> Logps:
        self._ready()
        ids = np.concatenate([sequence.prompt_ids, sequence.completion_ids]).astype(np.int64)
        num_tokens = len(sequence.completion_ids)
        logits_1TV = self._model(input_ids=torch.from_numpy(ids)[None].to(self._device)).logits
        logps_TV = logits_1TV[0, len(ids) - num_tokens - 1 : -1].float().log_softmax(-1)
        targets = torch.from_numpy(sequence.completion_ids.astype(np.int64)).to(self._device)
        scored: Logps = logps_TV.gather(-1, targets[:, None])[:, 0].cpu().numpy()
        return scored


def _sampling_logps(logits_V: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """Log-probabilities of the distribution that is sampled: temperature first, then the nucleus, renormalised."""
    if sampling.temperature == 0:
        return logits_V.log_softmax(-1)
    logps_V = (logits_V / sampling.temperature).log_softmax(-1)
    if sampling.top_p < 1:
        ordered, order = logps_V.sort(descending=True)
        before = ordered.exp().cumsum(-1) - ordered.exp()
        outside = before >= sampling.top_p
        outside[0] = False
        logps_V = logps_V.index_fill(0, order[outside], -torch.inf).log_softmax(-1)
    return logps_V


def _draw(logps_V: torch.Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    if sampling.temperature == 0:
        return int(logps_V.argmax())
    return int(torch.multinomial(logps_V.exp(), 1, generator=generator))


def _completion_seed(seed: int, key: str, index: int) -> int:
    """63 bits, so that it fits a signed integer column."""
    digest = hashlib.sha256(f"{seed}/{index}/{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
