"""How values stand in the database's text columns: as canonical ASCII JSON, which both databases keep byte for byte."""

import json
from dataclasses import asdict
from functools import lru_cache
from hashlib import sha256
from typing import Any, cast

from sqlalchemy import Row

from judge.human.types import GivenLabel, Label, NewTask, Rules


def to_text(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, ASCII alone (NUL and lone surrogates are escapes)."""
    return json.dumps(value, ensure_ascii=True, sort_keys=True, separators=(",", ":"))


def digest(value: Any) -> str:
    """sha256 of a value's canonical JSON."""
    return sha256(to_text(value).encode("ascii")).hexdigest()


def rules_text(rules: Rules) -> str:
    return to_text(asdict(rules))


@lru_cache(maxsize=64)
def parse_rules(text: str) -> Rules:
    """The rules that a round was opened with."""
    stored = json.loads(text)
    stored["criteria"] = tuple((name, question) for name, question in stored["criteria"])
    return Rules(**stored)


def payload_text(task: NewTask) -> str:
    """The conversation and both answers of a task, as stored."""
    return to_text({"messages": list(task.messages), "a": task.text_a, "b": task.text_b})


def parse_payload(text: str) -> dict[str, Any]:
    """Keys messages, a and b."""
    return cast(dict[str, Any], json.loads(text))


def given_label(row: Row[Any]) -> GivenLabel:
    """A row of `labels` as the noun."""
    body = json.loads(row.body)
    return GivenLabel(
        annotator_id=row.annotator_id,
        label=cast(Label, row.label),
        strength=body["strength"],
        reason=body["reason"],
        comment=body["comment"],
        criteria=body["criteria"],
        swapped=bool(row.swapped),
        seconds=row.seconds,
        at=row.submitted_at,
        is_late=bool(row.is_late),
    )
