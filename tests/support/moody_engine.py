"""The reference engine with the moods that engines have on a bad day, told by files beside the policies."""

import asyncio
import os
from pathlib import Path

from rollout.errors import InfraError
from rollout.reference_engine import ReferenceEngine

POISON = "poison"


class MoodyEngine(ReferenceEngine):
    """Leaves the number of its process in `pid-INDEX`; a file `MOOD-INDEX` is heeded once.

    fails, hangs: the next load does. Whatever the file, the prompt whose id is in `poison` ends the process.
    """

    def __init__(self, *, index, **how):
        super().__init__(**how)
        self._index, self._poison = index, None

    async def start(self, policy, path: Path):
        self._poison = path.parent / POISON
        await super().start(policy, path)
        (path.parent / f"pid-{self._index}").write_text(str(os.getpid()))

    async def load(self, policy, path: Path, weights=None):
        if self._heeds(path.parent / f"hangs-{self._index}"):
            await asyncio.sleep(3600)
        if self._heeds(path.parent / f"fails-{self._index}"):
            self.policy = None
            raise InfraError("half of the weights fell off")
        return await super().load(policy, path, weights)

    async def generate(self, prompt_token_ids, sampling, *, key):
        if self._poison.exists() and key.endswith(self._poison.read_text()):
            os._exit(1)
        await asyncio.sleep(0.05)
        return await super().generate(prompt_token_ids, sampling, key=key)

    def _heeds(self, mood: Path) -> bool:
        if not mood.exists():
            return False
        mood.unlink()
        return True
