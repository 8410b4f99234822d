"""Argilla 2: a round as a folder for `rg.Dataset.from_disk`, and what `Dataset.to_disk` wrote read back.

The folder holds `.argilla/dataset.json`, `.argilla/settings.json` and `records.json`, with the field names of Argilla's
import and export guide (docs.argilla.io, "Importing and exporting datasets and records"): conversation as a chat field,
the two answers as text fields, the preference and the criteria as label questions. Argilla takes responses only from
users that it knows, so labels go along for those annotators whose Argilla id is given, and are counted otherwise.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from judge.human.formats_rows import (
    CRITERION,
    ForeignLabel,
    LabelledPair,
    NamedLabel,
    Side,
    Unreadable,
    from_side,
    said,
    to_side,
)
from judge.human.types import RoundView
from rollout.errors import UsageError
from rollout.shards import publish, temporary_beside, write_json

_CHOICES = {
    "left": "Left is better",
    "right": "Right is better",
    "tie": "Equally good",
    "both_bad": "Both are bad",
}
_STRENGTHS = {"slightly": "Slightly", "clearly": "Clearly"}


def write_argilla(folder: Path, view: RoundView, pairs: Iterable[LabelledPair], users: Mapping[str, str]) -> int:
    """Write the folder; the number of labels that went along. users: Argilla's user id by annotator name."""
    (folder / ".argilla").mkdir(parents=True, exist_ok=True)
    write_json(folder / ".argilla" / "dataset.json", _dataset(view))
    write_json(folder / ".argilla" / "settings.json", _settings(view))
    num_labels = 0
    temporary = temporary_beside(folder / "records.json")
    with open(temporary, "w", encoding="ascii") as file:
        separator = "["
        for pair in pairs:
            known = [named for named in pair.labels if named.annotator in users]
            file.write(separator + "\n" + json.dumps(_record(pair, known, users), ensure_ascii=True))
            separator = ","
            num_labels += len(known)
        file.write("\n]\n" if separator == "," else "[]\n")
    publish(temporary, folder / "records.json")
    return num_labels


def read_argilla(path: Path, users: Mapping[str, str]) -> Iterator[ForeignLabel | Unreadable]:
    """Labels of a folder of `to_disk`, or of a records.json. users: Argilla's user id by annotator name.

    Raises UsageError if it is neither.
    """
    path = path / "records.json" if path.is_dir() else path
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} holds no records of Argilla: {error}; expected what Dataset.to_disk writes"
        ) from error
    if not isinstance(records, list):
        raise UsageError(f"{path} holds {type(records).__name__}, expected a list of records")
    names = {user_id: name for name, user_id in users.items()}
    for record in records:
        yield from _labels_of(record, names)


def _dataset(view: RoundView) -> dict[str, Any]:
    key = view.key
    return {
        "name": f"rondo-{key.run_id[:12]}-{key.round_id:04d}-{key.purpose}",
        "status": "draft",
        "guidelines": view.rules.guidelines or None,
        "allow_extra_metadata": False,
    }


def _settings(view: RoundView) -> dict[str, Any]:
    criteria = [
        _label_question(CRITERION + name, question, {side: _CHOICES[side] for side in ("left", "right", "tie")})
        for name, question in view.rules.criteria
    ]
    return {
        "guidelines": view.rules.guidelines or None,
        "allow_extra_metadata": False,
        "distribution": {"strategy": "overlap", "min_submitted": view.rules.overlap},
        "fields": [
            _field("prompt", "Conversation", "chat"),
            _field("left", "Left answer", "text"),
            _field("right", "Right answer", "text"),
        ],
        "questions": [
            _label_question("preference", "Which answer is better?", _CHOICES, required=True),
            _label_question("strength", "By how much?", _STRENGTHS),
            *criteria,
            _text_question("comment", "Comment"),
            _text_question("reason", "If you discard the pair: why?"),
        ],
        "metadata": [
            {
                "name": "a_is",
                "title": "a_is",
                "type": "terms",
                "visible_for_annotators": False,
                "settings": {"type": "terms", "visible_for_annotators": False, "values": ["left", "right"]},
            }
        ],
        "vectors": [],
    }


def _field(name: str, title: str, kind: str) -> dict[str, Any]:
    return {"name": name, "title": title, "required": True, "settings": {"type": kind, "use_markdown": True}}


def _label_question(name: str, title: str, options: Mapping[str, str], *, required: bool = False) -> dict[str, Any]:
    listed = [{"value": value, "text": text, "description": None} for value, text in options.items()]
    settings: dict[str, Any] = {"type": "label_selection", "options": listed}
    if len(listed) >= 3:  # Argilla refuses a smaller number of visible options
        settings["visible_options"] = len(listed)
    return {"name": name, "title": title, "description": None, "required": required, "settings": settings}


def _text_question(name: str, title: str) -> dict[str, Any]:
    settings = {"type": "text", "use_markdown": False}
    return {"name": name, "title": title, "description": None, "required": False, "settings": settings}


def _record(pair: LabelledPair, known: Iterable[NamedLabel], users: Mapping[str, str]) -> dict[str, Any]:
    left, right = (pair.text_a, pair.text_b) if pair.side_of_a == "left" else (pair.text_b, pair.text_a)
    responses: dict[str, list[dict[str, str]]] = {}
    for named in known:
        status = "discarded" if named.given.label == "skip" else "submitted"
        for question, value in _answers(pair.side_of_a, named).items():
            answer = {"value": value, "user_id": users[named.annotator], "status": status}
            responses.setdefault(question, []).append(answer)
    return {
        "id": pair.key,
        "fields": {"prompt": [dict(message) for message in pair.messages], "left": left, "right": right},
        "metadata": {"a_is": pair.side_of_a},
        "suggestions": {},
        "responses": responses,
        "vectors": {},
    }


def _answers(side_of_a: Side, named: NamedLabel) -> dict[str, str]:
    given = named.given
    answers = {CRITERION + name: to_side(choice, side_of_a) for name, choice in given.criteria.items()}
    answers |= {"comment": given.comment, "reason": given.reason, "strength": given.strength or ""}
    if given.label != "skip":
        answers["preference"] = to_side(given.label, side_of_a)
    return {question: value for question, value in answers.items() if value}


def _labels_of(record: Any, names: Mapping[str, str]) -> Iterator[ForeignLabel | Unreadable]:
    key = record.get("id") if isinstance(record, dict) else None
    if not isinstance(key, str):
        yield Unreadable(reason="no_key")
        return
    by_user: dict[str, dict[str, str]] = {}
    status: dict[str, str] = {}
    for question, given in (record.get("responses") or {}).items():
        for answer in given:
            user_id = str(answer.get("user_id"))
            by_user.setdefault(user_id, {})[question] = answer.get("value")
            status[user_id] = answer.get("status") or "submitted"
    for user_id, answers in by_user.items():
        yield _foreign(record, answers, annotator=names.get(user_id, f"argilla {user_id}"), status=status[user_id])


def _foreign(
    record: Mapping[str, Any], answers: Mapping[str, str], *, annotator: str, status: str
) -> ForeignLabel | Unreadable:
    if status == "draft":
        return Unreadable(reason="draft")
    try:
        side_of_a = record["metadata"]["a_is"]
        # to_disk writes no status: a response without a preference is a pair that was discarded
        is_skip = status == "discarded" or "preference" not in answers
        return ForeignLabel(
            key=record["id"],
            annotator=annotator,
            label="skip" if is_skip else from_side(answers["preference"], side_of_a),
            **said(answers, side_of_a),
            swapped=side_of_a == "right",
        )
    except (KeyError, TypeError, ValueError):
        return Unreadable(reason="unknown_label")
