"""Tells whoever resubmits a run that a round which it waited for is sealed."""

import logging
from typing import Any

from judge.human.rounds import Rounds
from judge.human.types import RoundView
from judge.webhook import Client, post
from rollout.errors import InfraError

_log = logging.getLogger(__name__)


def tell(rounds: Rounds, client: Client, *, wait: Any = None) -> int:
    """POST every sealed round to its webhook until that answers with 2xx; how many were told just now.

    A round stays untold where its webhook does not answer, and is tried again by the next call.
    """
    num_told = 0
    for view in rounds.untold():
        try:
            post(client, view.rules.webhook, message(view), wait=wait)
        except InfraError as error:
            _log.warning("the webhook of round %d is told later: %s", view.key.round_id, error)
            continue
        rounds.told(view.row_id)
        num_told += 1
    return num_told


def message(view: RoundView) -> dict[str, Any]:
    """What the webhook gets."""
    return {
        "event": "round_sealed",
        "run_id": view.key.run_id,
        "run_name": view.run_name,
        "round_id": view.key.round_id,
        "purpose": view.key.purpose,
        "sealed_by": view.sealed_by,
        "sha256": view.sha256,
        "num_tasks": view.num_tasks,
        "num_resolved": view.num_resolved,
        "num_given_up": view.num_given_up,
        "resume": view.rules.resume,
    }
