"""Errors that only the learner raises."""

from rollout.errors import RondoError


class DivergedError(RondoError):
    """A loss or gradient was not finite; the optimizer did not move, and the batch lies in a file for a post-mortem."""
