"""One run: started, struck at its moments, started again until it is done, and checked all the while."""

import random
import re
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from tests.chaos import judges
from tests.chaos.attempts import Attempt, JobAttempt
from tests.chaos.clock import Clock
from tests.chaos.crowd import Crowd
from tests.chaos.endings import check_code, check_one_line, has_named, tail, was_too_slow
from tests.chaos.faults import LEFT_WITHIN_S, Cut, Scene, Struck, faults
from tests.chaos.invariants import Ledger, check_finished, check_same
from tests.chaos.machines import Nodes, SmallDisk
from tests.chaos.plans import BATCH_PAIRS, DEADLINE_S, NUM_EPOCHS, NUM_ROUNDS, Injection, Plan, settings

ATTEMPT_LIMIT_S = 600.0
_POLL_S = 0.01
_DISK_MIB = 48
# An update that hangs is noticed when it is asked for; a shard has ten seconds of grace beyond its deadline.
_FAULTS = faults(hang_deadline_s=DEADLINE_S + 45.0)


@dataclass(kw_only=True)
class Outcome:
    """An injection that was made at at_s seconds of the run, and how it went on from there."""

    injection: Injection
    struck: Struck
    at_s: float
    named_s: float | None = None
    went: str = ""


@dataclass(kw_only=True)
class Result:
    """A run that was carried out. why: what did not hold; empty where all did. paused_s: the machine stood still."""

    plan: Plan
    outcomes: list[Outcome] = field(default_factory=list)
    num_attempts: int = 0
    num_slow_starts: int = 0
    num_pairs: int = 0
    seconds: float = 0.0
    paused_s: float = 0.0
    why: str = ""


class Disturbed:
    """A run directory, and what is built around it for as long as the block lasts. policy: the folder of the base."""

    def __init__(self, plan: Plan, folder: Path, *, policy: str) -> None:
        self._plan, self._variant, self._folder, self._policy = plan, plan.variant, folder, policy
        self._rng = random.Random(f"faults/{plan.seed}/{plan.number}")
        self._result = Result(plan=plan)
        self._pending = deque(plan.injections)
        self._due_s: float | None = None
        self._ledger, self._clock = Ledger(), Clock()
        self._orders = folder / "orders.json"
        self.root = folder / ("disk/run" if plan.variant.small_disk else "run")
        self._config = folder / "chaos.yaml"
        self._disk: SmallDisk | None = None
        self._nodes: Nodes | None = None
        self._endpoint: judges.Endpoint | None = None
        self._crowd: Crowd | None = None

    def __enter__(self) -> "Disturbed":
        variant = self._variant
        self._folder.mkdir(parents=True)
        with ExitStack() as built:
            if variant.small_disk:
                self._disk = SmallDisk(self.root.parent, _DISK_MIB)
                built.callback(self._disk.unmount)
            if variant.place != "own":
                self._nodes = Nodes(3, with_jobs=variant.place == "job")
                built.callback(self._nodes.shut_down)
            if variant.judge == "llm":
                self._endpoint = judges.Endpoint()
                built.callback(self._endpoint.close)
            if variant.judge == "human":
                self._crowd = Crowd(self.root)
                built.callback(self._crowd.close)
            self._built = built.pop_all()
        tree = settings(variant, policy=self._policy, endpoint=self._endpoint.url if self._endpoint else "")
        self._config.write_text(yaml.safe_dump(tree))
        return self

    def __exit__(self, *raised: Any) -> None:
        self._built.close()

    def to_the_end(self, undisturbed: dict[str, str] | None) -> Result:
        """Attempt after attempt until the run is done; what did not hold stands in the result."""
        try:
            while self._attempt() != 0:
                num = self._result.num_attempts - self._result.num_slow_starts
                assert num <= 3 * len(self._plan.injections) + 3, "it does not come to an end"
            self._result.num_pairs = check_finished(
                self.root,
                num_rounds=NUM_ROUNDS,
                max_policy_lag=self._variant.max_policy_lag,
                num_epochs=NUM_EPOCHS,
                batch_pairs=BATCH_PAIRS,
            )
            if undisturbed is not None:
                check_same(self.root, undisturbed, without_evidence=self._variant.judge == "human")
        except AssertionError as error:
            self._result.why = str(error).partition("\n")[0] or repr(error)
        self._result.seconds, self._result.paused_s = self._clock.tick(), self._clock.paused_s
        return self._result

    def _attempt(self) -> int:
        """Start the command once and see it end; its exit code."""
        scene, made = self._start(), list[Outcome]()
        try:
            code = self._ended(scene, made)
        finally:
            for outcome in made:
                outcome.struck.undo()
        said = scene.attempt.said()
        self._see_named(said, made)
        if was_too_slow(code, said):
            self._result.num_slow_starts += 1
            return code
        check_code(code, said, [outcome.struck for outcome in made])
        for outcome in made:
            outcome.went = "went on" if code == 0 else f"ended with {code}, resumed"
            assert outcome.named_s is not None, f"{outcome.struck.said!r} was not said: {tail(said)}"
            self._ledger.forget(self.root, *outcome.struck.forgotten)
        if self._is_restarted_at_once(made):
            return code
        self._look_after(scene)
        for outcome in made:
            if outcome.struck.cut is not None:
                self._refused(outcome.struck.cut)
        return code

    def _start(self) -> Scene:
        self._result.num_attempts += 1
        arguments = ("run", str(self._config), "--run-dir", str(self.root))
        log = self._folder / f"log-{self._result.num_attempts:02d}"
        attempt: Attempt | JobAttempt
        if self._nodes is not None and self._variant.place == "job":
            attempt = JobAttempt(arguments, log=log, nodes=self._nodes, stop_wait_s=60)
        else:
            address = self._nodes.address if self._nodes else ""
            attempt = Attempt(arguments, log=log, address=address, **{judges.ORDERS: str(self._orders)})
        return Scene(
            root=self.root,
            attempt=attempt,
            nodes=self._nodes,
            disk=self._disk,
            endpoint=self._endpoint,
            orders=self._orders,
        )

    def _ended(self, scene: Scene, made: list[Outcome], *, strikes: bool = True) -> int:
        """Wait for the attempt's end, and strike meanwhile, one at a time; its exit code."""
        limit_s = self._clock.tick() + ATTEMPT_LIMIT_S
        while (code := scene.attempt.code()) is None:
            assert self._clock.tick() < limit_s, f"an attempt did not end within {ATTEMPT_LIMIT_S:.0f} s"
            if self._crowd is not None:
                self._crowd.tend()
            if any(outcome.named_s is None for outcome in made):
                self._see_named(scene.attempt.said(), made)
            elif strikes:
                self._strike(scene, made)
            time.sleep(_POLL_S)
        return code

    def _strike(self, scene: Scene, made: list[Outcome]) -> None:
        """Make the next injection if its moment has come and there is something to strike."""
        if not self._pending:
            return
        injection, now_s = self._pending[0], self._clock.tick()
        if self._due_s is None and injection.moment.has_come(self.root):
            self._due_s = now_s + injection.moment.delay_s
        if self._due_s is None or now_s < self._due_s:
            return
        struck = _FAULTS[injection.kind](scene, self._rng)
        if struck is None:
            return
        self._pending.popleft()
        self._due_s = None
        if struck.instead:
            injection = replace(injection, kind=struck.instead)
        outcome = Outcome(injection=injection, struck=struck, at_s=self._clock.tick())
        outcome.named_s = None if struck.said else outcome.at_s
        made.append(outcome)
        self._result.outcomes.append(outcome)

    def _see_named(self, said: str, made: list[Outcome]) -> None:
        """Note which faults the attempt has named; raise AssertionError for one that it should have by now."""
        for outcome in made:
            if outcome.named_s is None and has_named(said, outcome.struck):
                outcome.named_s = self._clock.tick()
            late_s = (outcome.named_s or self._clock.tick()) - outcome.at_s
            in_time = late_s <= outcome.struck.within_s
            assert in_time, f"{outcome.injection.kind}: not named within {outcome.struck.within_s:.0f} s: {tail(said)}"

    def _is_restarted_at_once(self, made: list[Outcome]) -> bool:
        """Now and then nobody looks whether all of a killed attempt has gone before the next one starts."""
        ended_by = {outcome.injection.kind for outcome in made if outcome.struck.codes}
        return ended_by == {"driver killed"} and self._rng.random() < 0.5

    def _look_after(self, scene: Scene) -> None:
        left = scene.attempt.leftovers(LEFT_WITHIN_S)
        self._clock.tick()
        assert not left, f"processes were left behind: {left}"
        self._ledger.look(self.root)

    def _refused(self, cut: Cut) -> None:
        """A committed file that lost its end ends the next attempt, by name; whole again, it is as before."""
        scene = self._start()
        code = self._ended(scene, [], strikes=False)
        said = scene.attempt.said()
        if was_too_slow(code, said):
            self._result.num_slow_starts += 1
            self._refused(cut)
            return
        cut.mend()
        assert code == 1, f"{cut.path} was cut, and the run ended with {code}: {tail(said)}"
        is_named = re.search(f"{re.escape(str(cut.path))}|{re.escape(str(cut.path.parent))} has sha256", said)
        assert is_named, f"{cut.path} was cut, and is not named: {tail(said)}"
        check_one_line(said)
        self._look_after(scene)
