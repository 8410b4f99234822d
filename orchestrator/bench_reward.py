"""`rondo bench reward`: a reward model as a judge, against the bare loop that one would write for it."""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from judge.backend import build
from judge.config import RewardModelJudge
from judge.protocol import Context, Scorer
from orchestrator.bench import NUM_PAIRS, announce, compared, report
from orchestrator.reward_model import quiet_transformers
from rollout.types import Completion, CompletionGroup, Message, Prompt

_NUM_PROMPTS = 64
_NUM_COMPLETIONS = 4
_BATCH_SIZE = 32
_TEXT = "the quick answer is good and a long one is better than no question about things that are not here"


def bench_reward(*, num_pairs: int = NUM_PAIRS) -> dict[str, Any]:
    """Alternate the judge and the bare loop on the same rows of very different lengths; rows/s and their ratio.

    Both render, tokenise and score; both sort by length and pad to the right, with the same batch size. The scores of
    the two are compared, too: a faster way to other figures would be no way.
    """
    quiet_transformers()
    groups = _groups()
    num_rows = sum(len(group.completions) for group in groups)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        _make_model(folder)
        judge = build(
            RewardModelJudge(model=str(folder), batch_size=_BATCH_SIZE), Context(store_dir=Path(name), salt="bench")
        )
        assert isinstance(judge, Scorer)
        bare = _Bare(folder)

        def ours() -> tuple[float, list[float | None]]:
            started = time.perf_counter()
            scores = asyncio.run(judge.score(groups))
            return num_rows / (time.perf_counter() - started), [one.value for found in scores for one in found]

        def peer() -> tuple[float, list[float]]:
            started = time.perf_counter()
            found = bare.score(groups)
            return num_rows / (time.perf_counter() - started), found

        if not np.allclose(np.array(ours()[1], float), peer()[1], atol=1e-4):
            raise AssertionError("the judge and the bare loop give different scores")
        announce(f"reward: {num_pairs} pairs of runs")
        figures = [(ours()[0], peer()[0]) for _ in range(num_pairs)]
    row = compared(
        "reward model",
        [one for one, _ in figures],
        [other for _, other in figures],
        unit="rows/s",
        peer="bare transformers loop",
        floor=0.9,
    )
    return report("reward", [row])


class _Bare:
    """What one would write: the model's own forward pass over sorted rows, padded on the right by its tokenizer."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
        self._model = AutoModelForSequenceClassification.from_pretrained(folder).eval()

    def score(self, groups: Sequence[CompletionGroup]) -> list[float]:
        import torch

        texts = [
            self._tokenizer.apply_chat_template(
                [*group.prompt.messages, {"role": "assistant", "content": one.text}], tokenize=False
            )
            for group in groups
            for one in group.completions
        ]
        rows = self._tokenizer(texts, add_special_tokens=False)["input_ids"]
        order = sorted(range(len(rows)), key=lambda place: -len(rows[place]))
        found = [0.0] * len(rows)
        with torch.inference_mode():
            for start in range(0, len(order), _BATCH_SIZE):
                places = order[start : start + _BATCH_SIZE]
                batch = self._tokenizer.pad({"input_ids": [rows[place] for place in places]}, return_tensors="pt")
                for place, value in zip(places, self._model(**batch).logits[:, 0].tolist(), strict=True):
                    found[place] = value
        return found


def _make_model(folder: Path) -> None:
    """A reward model of random weights in the quickstart's shape, with room for longer rows."""
    from learner.base_config import ScratchConfig
    from learner.reward_model import make_random

    make_random(folder, ScratchConfig(context_length=1024), texts=[_TEXT])


def _groups() -> list[CompletionGroup]:
    random, words = np.random.default_rng(0), _TEXT.split()

    def some(low: int, high: int) -> str:
        return " ".join(random.choice(words, size=random.integers(low, high)))

    return [
        CompletionGroup(
            prompt=Prompt(prompt_id=str(i), messages=(Message(role="user", content=some(5, 40)),), source="bench"),
            prompt_token_ids=np.zeros(1, np.int32),
            completions=tuple(_completion(index, some(1, 200)) for index in range(_NUM_COMPLETIONS)),
        )
        for i in range(_NUM_PROMPTS)
    ]


def _completion(index: int, text: str) -> Completion:
    return Completion(
        index=index,
        token_ids=np.zeros(1, np.int32),
        logps=np.zeros(1, np.float32),
        text=text,
        finish_reason="stop",
        seed=None,
        weight_versions=(),
    )
