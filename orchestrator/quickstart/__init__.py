"""The quickstart: a corpus of its own and a stated preference, so that the whole loop runs without a download."""

from orchestrator.quickstart.corpus import demonstrations, held_out, prompts

__all__ = ["demonstrations", "held_out", "prompts"]
