"""vLLM's engine in this process, stepped on a thread of its own; new weights load between two of its steps.

In process rather than in one of its own: ready in a third of the time, and one process less that competes for cores.
"""

import asyncio
import hashlib
import importlib
import itertools
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from rollout.adapter import adapter_rank, base_folder
from rollout.config import RolloutConfig
from rollout.engine import completion_budget, context_tokens
from rollout.errors import InfraError
from rollout.stepping import Stepper
from rollout.types import (
    Completion,
    FinishReason,
    LoadReport,
    Logps,
    PolicyRef,
    Road,
    Sampling,
    TokenIds,
    TokenSequence,
    WeightSpan,
)
from rollout.weight_source import WeightSource, folder_source
from rollout.weights import linear_layers, refuse_other_weights, weight_shapes, weights_size_bytes

_CPU_KV_CACHE_GIB = 1.0
_CLOSE_TIMEOUT_S = 60.0
_SCORE = "score-"
# What vLLM takes as max_lora_rank.
_LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class VllmEngine:
    """See `rollout.engine.Engine`.

    stop_ids: the only ids that end a completion; dtype: as vLLM names it. seed and index: the run's seed and the
    engine's number, from which its random stream is derived; single completions have no seed, because sampling in
    batches is not reproducible and because vLLM 0.32 on CPU fails on seeded requests that it has to preempt.
    """

    def __init__(
        self, *, settings: RolloutConfig, stop_ids: Sequence[int], dtype: str, seed: int = 0, index: int = 0
    ) -> None:
        self._settings = settings
        self._stop_ids = list(stop_ids)
        self._dtype = dtype
        self._seed = seed
        self._name = f"vLLM engine {index}"
        self._ids = itertools.count()
        self._stepper: Stepper[Any] | None = None
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._base: Path | None = None  # the folder whose whole weights are in place
        self._lora_rank = 0  # room for adapters of this rank; 0: none
        self._adapter: Any | None = None  # what every request goes by; the engine's thread alone changes it
        self._adapter_ids = itertools.count(1)
        self._policy: PolicyRef | None = None
        self.context_tokens = 0

    @property
    def policy(self) -> PolicyRef | None:
        # A thread that has died holds nothing, whatever was loaded before.
        return self._policy if self._stepper is not None and self._stepper.ended is None else None

    @staticmethod
    def warm() -> None:
        """Import vLLM, which takes many seconds, ahead of start(); for a thread of its own."""
        _import_vllm()

    async def start(self, policy: PolicyRef, path: Path) -> None:
        if self.policy is not None:
            if self.policy != policy:
                await self.load(policy, path)
            return
        await self.close()
        self._base, self._adapter = base_folder(path), None
        self._lora_rank = max(self._settings.max_lora_rank or 0, adapter_rank(path) if self._base != path else 0)
        self._shapes = weight_shapes(self._base)
        self.context_tokens = context_tokens(self._base, self._settings.max_model_len)
        self._stepper = Stepper(lambda: self._build(policy, path), shut_down=_shut_down, name=self._name)
        await self._wait(self._stepper.ready, self._settings.start_timeout_s, f"start with policy v{policy.version}")
        self._policy = policy

    async def load(self, policy: PolicyRef, path: Path, weights: WeightSource | None = None) -> LoadReport:
        stepper, started = self._running(), time.monotonic()
        self._policy = None
        base = base_folder(path)
        rank = adapter_rank(path) if base != path else 0
        if rank > self._lora_rank or (self._lora_rank and base != self._base):
            # A running vLLM engine neither gains room for adapters nor changes whole weights under them.
            await self.close()
            await self.start(policy, path)
            return _report(policy, "folder", weights_size_bytes(path), started)

        def replace(engine: Any) -> WeightSource:
            source = weights or folder_source(path)
            if self._lora_rank:
                self._switch_adapter(engine, policy, path)
            else:
                refuse_other_weights(self._shapes, source.shapes(), path)
                engine.collective_rpc("load_policy", args=(source,))
            # What was computed under the old weights goes: cached prefixes, the KV of running completions (they are
            # prefilled again and go on), tokens still on their way, and scores, which are of one policy only.
            engine.reset_prefix_cache(reset_running_requests=True)
            engine.set_weight_version(str(policy.version))
            stepper.restart_requests(engine, _SCORE)
            return source

        replacing = stepper.call(replace)
        source = await self._wait(replacing, self._settings.sync_timeout_s, f"load of policy v{policy.version}")
        self._base, self._policy = base, policy
        return _report(policy, "adapter" if self._lora_rank else source.road, source.size_bytes, started)

    async def generate(self, prompt_token_ids: TokenIds, sampling: Sampling, *, key: str) -> tuple[Completion, ...]:
        budget = completion_budget(len(prompt_token_ids), sampling, self.context_tokens)
        # vLLM refuses several greedy completions of one prompt; they are all the same anyway.
        copies = sampling.num_completions if sampling.temperature == 0 else 1
        params = {
            "n": sampling.num_completions // copies,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": budget,
            "stop_token_ids": self._stop_ids,
            "logprobs": 0,
        }
        output = await self._request(f"{next(self._ids)}", prompt_token_ids, params, f"completions of {key}")
        return tuple(
            _completion(one, index=copy * len(output.outputs) + one.index)
            for copy in range(copies)
            for one in output.outputs
        )

    async def score(self, sequence: TokenSequence) -> Logps:
        num_tokens = len(sequence.completion_ids)
        if num_tokens == 0:
            return np.zeros(0, np.float32)
        ids = np.concatenate([sequence.prompt_ids, sequence.completion_ids])
        # Asking for prompt_logprobs makes vLLM pass by its prefix cache, so every position is really computed.
        params = {"n": 1, "max_tokens": 1, "prompt_logprobs": 0}
        output = await self._request(f"{_SCORE}{next(self._ids)}", ids, params, f"the score of {num_tokens} tokens")
        return np.array(output.prompt_logprobs.logprobs[-num_tokens:], np.float32)

    async def close(self) -> None:
        stepper, self._stepper, self._policy = self._stepper, None, None
        if stepper is not None and not await asyncio.to_thread(stepper.close, _CLOSE_TIMEOUT_S):
            raise InfraError(f"{self._name} did not end its step within {_CLOSE_TIMEOUT_S:g} s; end its process")

    def _switch_adapter(self, engine: Any, policy: PolicyRef, path: Path) -> None:
        """Put the policy's adapter in place, or take it away for the base; running completions go on under it."""
        self._adapter = None
        if path != base_folder(path):
            from vllm.lora.request import LoRARequest

            # A new id each time: vLLM takes what it has loaded under a known one.
            name = f"v{policy.version}-{policy.sha256[:12]}"
            self._adapter = LoRARequest(name, next(self._adapter_ids), str(path))
            engine.add_lora(self._adapter)
        for request in engine.engine_core.engine_core.scheduler.requests.values():
            request.lora_request = self._adapter
        engine.collective_rpc("use_adapter", args=(self._adapter,))

    def _lora_targets(self) -> list[str] | None:
        """Every linear layer but the output head, which vLLM 0.32 cannot wrap for scores of several requests at once:
        it has an adapter's place for each sampled token, and none for those of a prompt. None: all, where expert
        layers have other names in vLLM than in the files."""
        if not self._lora_rank or any(".experts." in name for name in self._shapes):
            return None
        assert self._base is not None
        return sorted(linear_layers(self._base))

    def _running(self) -> Stepper[Any]:
        if self._stepper is None:
            raise InfraError(f"{self._name} was not started")
        if self._stepper.ended is not None:
            raise InfraError(f"{self._name} is unusable until it is started again: {self._stepper.ended}")
        return self._stepper

    async def _request(self, request_id: str, ids: TokenIds, params: dict[str, Any], what: str) -> Any:
        stepper = self._running()
        future = stepper.submit(request_id, self._adding(request_id, ids.tolist(), params))
        try:
            return await self._wait(future, self._settings.generate_timeout_s, what)
        finally:
            if not future.done():
                stepper.cancel(request_id)

    async def _wait(self, future: "Future[Any]", timeout_s: float, what: str) -> Any:
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
        except TimeoutError as error:
            raise InfraError(f"{self._name}: {what} did not come within {timeout_s:g} s") from error

    def _build(self, policy: PolicyRef, path: Path) -> Any:
        _import_vllm()
        from vllm.engine.arg_utils import EngineArgs
        from vllm.platforms import current_platform
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.llm_engine import LLMEngine

        settings, on_cpu = self._settings, current_platform.is_cpu()
        gib = settings.kv_cache_gib or (_CPU_KV_CACHE_GIB if on_cpu else None)
        arguments = EngineArgs(
            model=str(self._base),
            dtype=self._dtype,
            seed=_stream_seed(self._seed, self._name, policy.version),
            max_model_len=self.context_tokens + 1,
            max_num_seqs=settings.max_num_seqs,
            kv_cache_memory_bytes=None if gib is None else int(gib * 1024**3),
            gpu_memory_utilization=settings.gpu_memory_utilization,
            tensor_parallel_size=settings.tensor_parallel_size,
            distributed_executor_backend="mp" if settings.tensor_parallel_size > 1 else "uni",
            enforce_eager=on_cpu if settings.enforce_eager is None else settings.enforce_eager,
            skip_tokenizer_init=True,  # tokens in, tokens out
            logprobs_mode="processed_logprobs",
            worker_extension_cls="rollout.vllm_worker.PolicyLoading",
            disable_log_stats=True,
            use_tqdm_on_load=False,
            enable_lora=self._lora_rank > 0,
            lora_target_modules=self._lora_targets(),
            max_lora_rank=next(rank for rank in _LORA_RANKS if rank >= self._lora_rank),
        )
        engine = LLMEngine.from_engine_args(arguments, usage_context=UsageContext.LLM_CLASS)
        engine.set_weight_version(str(policy.version))
        if self._lora_rank:
            self._switch_adapter(engine, policy, path)
        return engine

    def _adding(self, request_id: str, ids: list[int], params: dict[str, Any]) -> Callable[[Any], None]:
        def add(engine: Any) -> None:
            from vllm.sampling_params import RequestOutputKind, SamplingParams

            # ignore_eos: stop_token_ids are ours and stay; what vLLM reads in the model's configuration does not count.
            # flat_logprobs: one list of numbers in place of a dictionary of objects for every token.
            common = {"ignore_eos": True, "detokenize": False, "flat_logprobs": True, "skip_clone": True}
            sampling = SamplingParams(**params, **common, output_kind=RequestOutputKind.FINAL_ONLY)
            prompt = {"type": "token", "prompt_token_ids": ids}
            engine.add_request(request_id, prompt, sampling, lora_request=self._adapter)

        return add


def prepare_environment() -> None:
    """Set what vLLM must find in the environment, before it is imported, to run inside this process."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    quiet = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    # The number of threads is that of the cores Ray assigned; which cores is left to the operating system.
    for name, value in {**quiet, "VLLM_CPU_OMP_THREADS_BIND": "nobind"}.items():
        os.environ.setdefault(name, value)


def _import_vllm() -> None:
    prepare_environment()
    importlib.import_module("vllm.v1.engine.llm_engine")


def _completion(output: Any, *, index: int) -> Completion:
    reasons: dict[str, FinishReason] = {"stop": "stop", "length": "length"}
    return Completion(
        index=index,
        token_ids=np.array(output.token_ids, np.int32),
        logps=np.array(output.logprobs.logprobs, np.float32),
        text="",
        finish_reason=reasons.get(output.finish_reason, "abort"),
        seed=None,
        weight_versions=tuple(
            WeightSpan(version=int(span.version), start=span.start, end=span.end)
            for span in output.weight_versions or ()
        ),
    )


def _report(policy: PolicyRef, road: Road, size_bytes: int, started: float) -> LoadReport:
    return LoadReport(version=policy.version, seconds=time.monotonic() - started, size_bytes=size_bytes, road=road)


def _stream_seed(seed: int, name: str, version: int) -> int:
    """Another random stream for each engine, and for one that starts again with later weights."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}/{version}".encode()).digest()[:4], "big")


def _shut_down(engine: Any) -> None:
    engine.engine_core.shutdown()
