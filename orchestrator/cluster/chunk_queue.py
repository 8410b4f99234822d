"""Which chunk goes to which engine next, and which prompt is to blame where engines die."""

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from rollout.errors import InfraError
from rollout.types import ENGINE_CRASHED, PromptChunk

# A prompt that has killed so many engines with nothing else in flight is not tried again.
_ENGINES_PER_PROMPT = 2
# When so many prompts in a row kill engines and nothing else succeeds, the engines are at fault.
_PROMPTS_IN_A_ROW = 3
EngineT = TypeVar("EngineT")


@dataclass(eq=False)
class Task:
    """A chunk to be generated, or (trial_of) one of its prompts to be tried out.

    suspect: it was in flight when an engine died, so it has an engine to itself from now on; num_deaths counts
    the engines that died since. guilty: prompts found by the trials, of which num_trials are still open.
    """

    chunk: PromptChunk
    trial_of: "Task | None" = None
    suspect: bool = False
    num_failures: int = 0
    num_deaths: int = 0
    num_trials: int = 0
    guilty: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        chunk = f"chunk {self.chunk.chunk_id} of round {self.chunk.round_id}"
        return chunk if self.trial_of is None else f"prompt {self.chunk.prompts[0].prompt_id} of {chunk}"


class ChunkQueue:
    """Tasks that wait for an engine.

    A chunk that was in flight on an engine that died is generated again with an engine to itself. If that one dies,
    too, each of its prompts is tried out alone; one that kills two engines so is quarantined, and the chunk is
    generated without it. Who merely stood beside is cleared by surviving. warn: told of every quarantine.
    """

    def __init__(
        self, chunks: Iterable[PromptChunk], *, max_attempts: int, shards_in_flight: int, warn: Callable[[str], None]
    ) -> None:
        self._waiting = deque(Task(chunk) for chunk in chunks)
        self._suspects: deque[Task] = deque()
        self._max_attempts, self._shards_in_flight, self._warn = max_attempts, shards_in_flight, warn
        self._num_in_a_row = 0

    def __len__(self) -> int:
        return len(self._waiting) + len(self._suspects)

    def assign(self, in_flight: Mapping[EngineT, Sequence[Task]]) -> list[tuple[EngineT, Task]]:
        """Take tasks for engines that have room; in_flight: every engine that may be given work, with what it has."""
        given: list[tuple[EngineT, Task]] = []
        load = {engine: len(tasks) for engine, tasks in in_flight.items()}
        alone = {engine for engine, tasks in in_flight.items() if any(task.suspect for task in tasks)}
        for engine in [engine for engine, num in load.items() if num == 0]:
            if self._suspects:
                given.append((engine, self._suspects.popleft()))
                alone.add(engine)
        shared = {engine: num for engine, num in load.items() if engine not in alone}
        if self._suspects and not alone and shared:  # one engine gets no more until it is empty
            del shared[min(shared, key=lambda engine: load[engine])]
        while self._waiting and shared:
            engine = min(shared, key=lambda engine: shared[engine])
            if shared[engine] >= self._shards_in_flight:
                break
            given.append((engine, self._waiting.popleft()))
            shared[engine] += 1
        return given

    def put_back(self, task: Task) -> None:
        """The task could not be finished, for which it is not to blame."""
        (self._suspects if task.suspect else self._waiting).appendleft(task)

    def finished(self, task: Task) -> None:
        """The engine has answered."""
        self._num_in_a_row = 0
        if task.trial_of is not None:
            self._tried(task.trial_of)

    def failed(self, task: Task, error: InfraError) -> None:
        """The engine could not do it, but lives. Raises InfraError when that has happened too often."""
        task.num_failures += 1
        if task.num_failures >= self._max_attempts:
            raise InfraError(f"{task} failed {task.num_failures} times, last with: {error}") from error
        self.put_back(task)

    def crashed(self, tasks: Iterable[Task], error: InfraError) -> None:
        """An engine died while it had these. Raises InfraError when no prompt can be blamed for it."""
        for task in tasks:
            if not task.suspect:
                task.suspect = True
                self.put_back(task)
                continue
            task.num_deaths += 1
            if task.trial_of is None:
                self._try_out(task, error)
            elif task.num_deaths < _ENGINES_PER_PROMPT:
                self.put_back(task)
            else:
                self._quarantine(task, task.trial_of, error)

    def _try_out(self, task: Task, error: InfraError) -> None:
        prompts = [one for one in task.chunk.prompts if one.prompt_id not in task.chunk.quarantined]
        if task.num_deaths > self._max_attempts or not prompts:
            raise InfraError(
                f"{task} has crashed {task.num_deaths + 1} engines, though none of its prompts does so alone; last "
                f"with: {error}; lower rollout.prompts_per_shard or rollout.max_num_seqs"
            ) from error
        task.num_trials = len(prompts)
        trials = [Task(replace(task.chunk, prompts=(one,)), trial_of=task, suspect=True) for one in prompts]
        self._suspects.extendleft(reversed(trials))

    def _quarantine(self, trial: Task, task: Task, error: InfraError) -> None:
        self._num_in_a_row += 1
        if self._num_in_a_row >= _PROMPTS_IN_A_ROW:
            raise InfraError(
                f"{self._num_in_a_row} prompts in a row crashed every engine that they were given to, so the engines "
                f"are at fault rather than the prompts; last with: {error}; their logs are in Ray's log folder"
            ) from error
        self._warn(f"{trial} has crashed {trial.num_deaths} engines alone and is rejected as {ENGINE_CRASHED}")
        task.guilty.add(trial.chunk.prompts[0].prompt_id)
        self._tried(task)

    def _tried(self, task: Task) -> None:
        task.num_trials -= 1
        if task.num_trials == 0:
            task.chunk = replace(task.chunk, quarantined=task.chunk.quarantined | task.guilty)
            self.put_back(task)
