"""A pair as the labelling page shows it, and times and JSON as its script reads them."""

import json
from contextlib import suppress
from hashlib import sha256
from typing import Any

from fastapi import Response
from markupsafe import Markup

from judge.human.page.rendering import MAX_CHARS, render
from judge.human.page.shell import Page
from judge.human.types import Lease, Rules
from rollout.errors import InfraError
from rollout.types import Message


def stage(page: Page, lease: Lease | None) -> dict[str, Any]:
    """What the page shows: a pair, or that there is none. Nothing of the lease but this goes to the browser."""
    template = page.templates.get_template("task.html")
    if lease is None:
        return {"state": "empty", "html": template.render(pair=None)}
    pair = {
        "token": lease.token,
        "round_id": lease.round_id,
        "purpose": lease.purpose,
        "turns": [{"role": message["role"], **answer(message["content"])} for message in lease.messages],
        "answers": [{"side": "left", **answer(lease.left)}, {"side": "right", **answer(lease.right)}],
        "is_same": lease.left == lease.right,
        "criteria": lease.rules.criteria,
        "guidelines": sha256(lease.rules.guidelines.encode("utf-8", "replace")).hexdigest()[:12],
        "min_dwell_s": lease.rules.min_dwell_s,
        "lease_s": lease.rules.lease_s,
        "former": dict(lease.former) if lease.former else None,
        **times(page, lease),
    }
    return {"state": "pair", "token": lease.token, "html": template.render(pair=pair)}


def rehearse(page: Page) -> None:
    """Make a pair that nobody sees: what parsers, lexers, templates and connections load, they have before the first.

    After a restart all who label come back within seconds.
    """
    with suppress(InfraError):  # who asks will hear of it
        page.tasks.rehearse()
    text = "# One\n\n- `code` and $x^2$\n\n```python\nx = 1\n```\n"
    pair = Lease(
        token="",
        task_id="",
        messages=(Message(role="user", content=text),),
        left=text,
        right=text,
        round_id=0,
        purpose="pairs",
        rules=Rules(),
        shown_at=0.0,
        expires_at=0.0,
        deadline_at=None,
    )
    stage(page, pair)


def answer(text: str) -> dict[str, Any]:
    rendered = render(text)
    return {
        "html": Markup(rendered.html),  # sanitised by render
        "is_empty": not text.strip(),
        "is_cut": rendered.is_cut,
        "num_chars": rendered.num_chars,
        "max_chars": MAX_CHARS,
    }


def times(page: Page, lease: Lease) -> dict[str, Any]:
    return {
        "expires_in_s": seconds_until(page, lease.expires_at),
        "deadline_in_s": seconds_until(page, lease.deadline_at),
    }


def seconds_until(page: Page, at: float | None) -> float | None:
    return None if at is None else round(max(0.0, at - page.clock()), 1)


def as_json(values: dict[str, Any]) -> Response:
    """JSON in ASCII: a lone surrogate in an answer survives."""
    return Response(json.dumps(values), media_type="application/json")
