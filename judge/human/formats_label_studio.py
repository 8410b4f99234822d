"""Label Studio: a round as tasks with a labelling configuration, and its JSON export read back.

A folder of two files: `config.xml`, which is pasted as the project's labelling interface, and `tasks.json`, which is
imported. Field names are those of its documentation: "Basic Label Studio JSON format" and "Label Studio JSON format of
annotated tasks" (labelstud.io/guide). The one question is a Choices tag, because a Pairwise tag knows no tie; exports
of projects with a Pairwise tag are read as well. Left and right are drawn for each pair, and `a_is` keeps which is a.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from judge.human.formats_rows import (
    CRITERION,
    ForeignLabel,
    LabelledPair,
    NamedLabel,
    Unreadable,
    from_side,
    said,
    to_side,
)
from judge.human.types import Label, RoundView
from rollout.errors import UsageError
from rollout.shards import publish, temporary_beside, write_bytes

_CHOICES = (
    ("left", "Left is better", "1"),
    ("right", "Right is better", "2"),
    ("tie", "Equally good", "3"),
    ("both_bad", "Both are bad", "4"),
)
_TO = "left"  # controls about the pair as a whole are attached to the left text: every control needs one object


def write_label_studio(folder: Path, view: RoundView, pairs: Iterable[LabelledPair]) -> int:
    """Write config.xml and tasks.json; the number of labels among them.

    Who gave a label is in its `meta`: `completed_by` would have to name a member of the project, or the import fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / "config.xml", labelling_config(view).encode())
    num_labels = 0
    temporary = temporary_beside(folder / "tasks.json")
    with open(temporary, "w", encoding="ascii") as file:
        separator = "["
        for pair in pairs:
            file.write(separator + "\n" + json.dumps(_task(pair), ensure_ascii=True))
            separator = ","
            num_labels += len(pair.labels)
        file.write("\n]\n" if separator == "," else "[]\n")
    publish(temporary, folder / "tasks.json")
    return num_labels


def read_label_studio(path: Path) -> Iterator[ForeignLabel | Unreadable]:
    """Labels of a JSON export, or of a folder that write_label_studio wrote. Raises UsageError if it is neither."""
    path = path / "tasks.json" if path.is_dir() else path
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is no JSON export of Label Studio: {error}") from error
    if not isinstance(entries, list):
        raise UsageError(
            f"{path} holds {type(entries).__name__}, expected a list of tasks (export as JSON, not JSON-MIN)"
        )
    for entry in entries:
        yield from _labels_of(entry)


def labelling_config(view: RoundView) -> str:
    """The labelling interface of a round, as XML: conversation, two texts, one question, and the round's criteria."""
    root = ElementTree.Element("View")
    ElementTree.SubElement(
        root, "Style"
    ).text = (
        ".rondo-pair { display: grid; grid-template-columns: 1fr 1fr; gap: 1.5em } .htx-text { white-space: pre-wrap }"
    )
    ElementTree.SubElement(
        root, "Paragraphs", name="prompt", value="$prompt", layout="dialogue", nameKey="role", textKey="content"
    )
    columns = ElementTree.SubElement(root, "View", className="rondo-pair")
    for side in ("left", "right"):
        column = ElementTree.SubElement(columns, "View")
        ElementTree.SubElement(column, "Header", value=side.capitalize())
        # valueType: without it, a text that is an address would be fetched
        ElementTree.SubElement(column, "Text", name=side, value=f"${side}", valueType="text")
    _question(root, "preference", "Which answer is better?", _CHOICES, required=True)
    # Only a side has a strength: the question appears once one of the two is chosen.
    about = {"visibleWhen": "choice-selected", "whenTagName": "preference", "whenChoiceValue": "left,right"}
    fold = ElementTree.SubElement(root, "View", about)
    _question(fold, "strength", "By how much?", (("slightly", "Slightly", ""), ("clearly", "Clearly", "")))
    for name, question in view.rules.criteria:
        options = tuple((alias, text, "") for alias, text, _ in _CHOICES[:3])
        _question(root, CRITERION + name, question, options)
    for name, hint in (("comment", "Comment"), ("reason", "If you skip: why?")):
        ElementTree.SubElement(root, "TextArea", name=name, toName=_TO, placeholder=hint, maxSubmissions="1", rows="2")
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"


def _question(
    root: ElementTree.Element,
    name: str,
    question: str,
    options: tuple[tuple[str, str, str], ...],
    *,
    required: bool = False,
) -> None:
    ElementTree.SubElement(root, "Header", value=question, size="4")
    choices = ElementTree.SubElement(
        root, "Choices", name=name, toName=_TO, choice="single", showInline="true", required=str(required).lower()
    )
    for alias, text, hotkey in options:
        keys = {"hotkey": hotkey} if hotkey else {}
        ElementTree.SubElement(choices, "Choice", {"value": text, "alias": alias, **keys})


def _task(pair: LabelledPair) -> dict[str, Any]:
    left, right = (pair.text_a, pair.text_b) if pair.side_of_a == "left" else (pair.text_b, pair.text_a)
    return {
        "data": {
            "key": pair.key,
            "a_is": pair.side_of_a,
            "prompt": [dict(message) for message in pair.messages],
            "left": left,
            "right": right,
        },
        "annotations": [_annotation(pair, named) for named in pair.labels],
    }


def _annotation(pair: LabelledPair, named: NamedLabel) -> dict[str, Any]:
    given = named.given
    about = {"annotator": named.annotator, "at": given.at, "swapped": given.swapped}
    result: list[dict[str, Any]] = []

    def add(name: str, kind: str, value: list[str]) -> None:
        region: dict[str, Any] = {"id": f"{name}-{len(result)}", "from_name": name, "to_name": _TO, "type": kind}
        result.append(region | {"value": {"text" if kind == "textarea" else kind: value}, "meta": about})

    if given.label != "skip":
        add("preference", "choices", [to_side(given.label, pair.side_of_a)])
    if given.strength is not None:
        add("strength", "choices", [given.strength])
    for name, choice in given.criteria.items():
        add(CRITERION + name, "choices", [to_side(choice, pair.side_of_a)])
    for name, text in (("comment", given.comment), ("reason", given.reason)):
        if text:
            add(name, "textarea", [text])
    return {
        "result": result,
        "was_cancelled": given.label == "skip",
        "ground_truth": False,
        "lead_time": given.seconds,
    }


def _labels_of(entry: Any) -> Iterator[ForeignLabel | Unreadable]:
    data = entry.get("data") if isinstance(entry, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("key"), str):
        yield Unreadable(reason="no_key")
        return
    annotations = entry.get("annotations")
    for annotation in annotations if isinstance(annotations, list) else []:
        try:
            yield _foreign(data, annotation)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError):
            yield Unreadable(reason="unknown_label")


def _foreign(data: Mapping[str, Any], annotation: Mapping[str, Any]) -> ForeignLabel | Unreadable:
    side_of_a = data["a_is"]
    answers: dict[str, str] = {}
    meta: Mapping[str, Any] = {}
    for region in annotation["result"]:
        value = region["value"]
        if region["type"] == "pairwise":
            answers["preference"] = value["selected"]
        elif region["type"] in ("choices", "textarea"):
            answers[region["from_name"]] = value["choices" if region["type"] == "choices" else "text"][0]
        meta = region.get("meta") or meta
    label: Label = "skip" if annotation.get("was_cancelled") else from_side(answers["preference"], side_of_a)
    return ForeignLabel(
        key=data["key"],
        annotator=meta.get("annotator") or _member(annotation.get("completed_by")),
        label=label,
        **said(answers, side_of_a),
        swapped=meta.get("swapped", side_of_a == "right"),
        seconds=annotation.get("lead_time") or 0.0,
        at=meta.get("at") or _seconds(annotation.get("created_at")),
    )


def _member(completed_by: Any) -> str | None:
    if isinstance(completed_by, dict):
        return completed_by.get("email") or None
    return None if completed_by is None else f"label studio {completed_by}"


def _seconds(created_at: Any) -> float | None:
    if not isinstance(created_at, str):
        return None
    moment = datetime.fromisoformat(created_at)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
