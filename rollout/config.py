"""The configuration sections that rollout owns: where prompts come from, and how completions are generated."""

from typing import Literal

from pydantic import field_validator, model_validator

from rollout.types import Sampling, Settings, setting


class PromptsConfig(Settings):
    """`prompts:`: where prompts come from and how many a round draws."""

    path: str = setting(
        change="per_round",
        doc="a .jsonl, .parquet or .arrow file, a folder, a Hugging Face dataset name, or module:function",
        min_length=1,
    )
    split: str = setting("train", change="identity", doc="split of a Hugging Face dataset; single files have none")
    column: str | None = setting(
        None, change="identity", doc="column that holds the prompt; null: prompt, messages, question or instruction"
    )
    num_per_round: int = setting(1024, change="per_round", doc="prompts drawn for a round", ge=1)


class RolloutConfig(Settings):
    """`rollout:`: how completions are sampled, and the engines that sample them."""

    engine: str = setting(
        "vllm",
        change="operational",
        doc="vllm, transformers (the slow bit-reproducible reference), or module:Class of one's own",
        pattern=r"^(vllm|transformers|[\w.]+:\w+)$",
    )
    num_engines: int = setting(1, change="operational", doc="engines that generate side by side", ge=1)
    min_engines: int = setting(
        1, change="operational", doc="engines that a round begins and goes on with; the others join as they come", ge=1
    )
    num_completions: int = setting(4, change="per_round", doc="completions of one prompt", ge=1)
    temperature: float = setting(
        1.0, change="per_round", doc="sampling temperature, 0.01 to 2; 0 is greedy", ge=0, le=2
    )
    top_p: float = setting(1.0, change="per_round", doc="nucleus of the sampling distribution", gt=0, le=1)
    max_new_tokens: int = setting(1024, change="per_round", doc="tokens after which a completion is cut", ge=1)
    max_model_len: int | None = setting(
        None, change="per_round", doc="tokens of prompt and completion together; null: what the model allows", ge=2
    )
    prompts_per_shard: int = setting(
        32, change="per_round", doc="prompts of one durable group shard; more where a round had over 1024 shards", ge=1
    )
    shards_in_flight: int = setting(4, change="operational", doc="shards that one engine works on at once", ge=1)
    max_num_seqs: int = setting(256, change="operational", doc="completions that one engine decodes at once", ge=1)
    kv_cache_gib: float | None = setting(
        None, change="operational", doc="KV cache of an engine in GiB; null: vLLM decides on GPU, 1 GiB on CPU", gt=0
    )
    gpu_memory_utilization: float = setting(
        0.9, change="operational", doc="share of a GPU's memory that an engine takes", gt=0, le=1
    )
    tensor_parallel_size: int = setting(1, change="operational", doc="GPUs that one engine is split over", ge=1)
    max_lora_rank: int | None = setting(
        None,
        change="operational",
        doc="largest rank of adapters that engines have room for; null: that of learner.lora where it publishes any",
        ge=1,
        le=512,
    )
    enforce_eager: bool | None = setting(
        None, change="operational", doc="no compilation, no CUDA graphs; null: only on CPU"
    )
    cpus_per_engine: float = setting(1, change="operational", doc="CPU cores reserved for an engine", ge=0)
    gpus_per_engine: float | None = setting(
        None,
        change="operational",
        doc="GPUs reserved for an engine; null: tensor_parallel_size, if any",
        ge=0,
    )
    start_timeout_s: float = setting(
        900, change="operational", doc="seconds until an engine must be ready; as long, a run waits for room", gt=0
    )
    weight_sync: Literal["auto", "folder"] = setting(
        "auto",
        change="operational",
        doc="how new weights reach an engine; auto: shared memory where the learner is on its node, else the folder",
    )
    sync_timeout_s: float = setting(
        600, change="operational", doc="seconds until an engine must hold a new policy", gt=0
    )
    generate_timeout_s: float = setting(3600, change="operational", doc="seconds until a shard must be done", gt=0)
    max_attempts: int = setting(3, change="operational", doc="engines on which a shard is tried", ge=1)

    @model_validator(mode="after")
    def _enough_engines(self) -> "RolloutConfig":
        if self.min_engines > self.num_engines:
            raise ValueError(f"min_engines is {self.min_engines}, more than num_engines, {self.num_engines}")
        return self

    @field_validator("temperature")
    @classmethod
    def _not_nearly_greedy(cls, temperature: float) -> float:
        # vLLM would raise such a value to 0.01 without a word, and the recorded one would be wrong.
        if 0 < temperature < 0.01:
            raise ValueError("expected 0, which is greedy, or at least 0.01")
        return temperature

    @property
    def sampling(self) -> Sampling:
        """What is recorded beside every group."""
        return Sampling(
            num_completions=self.num_completions,
            temperature=self.temperature,
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens,
        )
