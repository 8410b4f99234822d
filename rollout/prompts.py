"""Which prompts a round uses: a pure function of the seed and of what earlier rounds used."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from rollout.errors import UsageError
from rollout.files import hash_json
from rollout.types import Message, Prompt

_ID_CHARACTERS = 24


def prompt_id(messages: Sequence[Message]) -> str:
    """The name of a conversation: a hash of its messages, so that the same words have the same name everywhere."""
    return hash_json([[message["role"], message["content"]] for message in messages])[:_ID_CHARACTERS]


def prompt_set_hash(prompts: Iterable[Prompt]) -> str:
    """sha256 of a set of prompts with their metadata, whatever their order."""
    return hash_json(sorted([prompt.prompt_id, hash_json(prompt.metadata)] for prompt in prompts))


def draw(prompts: Sequence[Prompt], *, seed: int, num: int, drawn: Sequence[Sequence[str]]) -> tuple[Prompt, ...]:
    """Choose the prompts of the next round; drawn holds the prompt ids of each earlier round, oldest first.

    Least used first, ties by a hash of (seed, times used, prompt_id): no prompt comes twice in a round, nor twice
    before all came once. Of a set that never changes this is a function of (seed, number of rounds) alone. A prompt
    added later is level with the least used of the others, or next in turn where those are level: it does not
    make up for the rounds it missed. Raises UsageError where there are fewer than num prompts.
    """
    return PromptOrder(prompts, seed=seed, drawn=drawn).draw(num)


class PromptOrder:
    """The same of one round after the other, for little more than the prompts drawn: the set is sorted once a pass."""

    def __init__(self, prompts: Sequence[Prompt], *, seed: int, drawn: Sequence[Sequence[str]]) -> None:
        self._prompts, self._seed = prompts, seed
        levels = _levels({prompt.prompt_id for prompt in prompts}, drawn)
        # No two are more than one apart, here and after each draw.
        self._levels = np.array([levels[prompt.prompt_id] for prompt in prompts], np.int64)
        self._queue = np.zeros(0, np.int64)  # what is left of the lowest level, in turn

    def draw(self, num: int) -> tuple[Prompt, ...]:
        """The prompts of the next round. Raises UsageError where there are fewer."""
        if num > len(self._prompts):
            raise UsageError(
                f"a round draws {num} prompts and the set has {len(self._prompts)} that can be used; "
                "lower prompts.num_per_round, or add prompts"
            )
        if not len(self._queue):
            self._queue = self._in_turn(self._levels.min())
        taken, self._queue = self._queue[:num], self._queue[num:]
        if len(taken) < num:
            following = self._in_turn(self._levels.min() + 1)
            taken = np.concatenate([taken, following[: num - len(taken)]])
        self._levels[taken] += 1
        return tuple(self._prompts[index] for index in taken)

    def _in_turn(self, level: int) -> npt.NDArray[np.int64]:
        found = np.flatnonzero(self._levels == level)
        keys = (f"{self._seed} {level} {self._prompts[index].prompt_id}" for index in found)
        digests = bytearray()
        for key in keys:
            digests += hashlib.sha256(key.encode()).digest()
        columns = np.frombuffer(digests, ">u8").reshape(-1, 4).T
        in_turn: npt.NDArray[np.int64] = found[np.lexsort(columns[::-1])]
        return in_turn


def refuse_overlap(train: Iterable[Prompt], held_out: Iterable[Prompt]) -> None:
    """Raise UsageError if a prompt is both trained on and held out: its win rate would flatter the policy."""
    trained = {prompt.prompt_id: prompt for prompt in train}
    both = [prompt for prompt in held_out if prompt.prompt_id in trained]
    if both:
        first = both[0]
        raise UsageError(
            f"{len(both)} prompts are both in training and held out, the first is {first.prompt_id} "
            f"({trained[first.prompt_id].source} and {first.source}); remove them from one of the two"
        )


def _levels(ids: set[str], drawn: Sequence[Sequence[str]]) -> Mapping[str, int]:
    # A set that never changes has levels at most one apart, so lifting to `highest - 1` touches newcomers alone.
    levels = dict.fromkeys(ids, 0)
    for round_ids in drawn:
        lowest = max(levels.values(), default=0) - 1
        for name in round_ids:
            if name in ids:
                levels[name] = max(levels[name], lowest) + 1
    lowest = max(levels.values(), default=0) - 1
    return {name: max(level, lowest) for name, level in levels.items()}
