"""What a language-model judge is told: versioned template files, checked for their placeholders."""

import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from judge.llm.frame import RULE
from rollout.errors import UsageError
from rollout.shards import hash_json

Style = Literal["pairwise", "pointwise"]
Method = Literal["logprobs", "json"]
BUILT_IN = ("helpfulness", "harmlessness", "constitution")
_FOLDER = Path(__file__).parent / "rubrics"
_NEEDED = {"pairwise": ("conversation", "answer_a", "answer_b"), "pointwise": ("conversation", "answer")}
# The end of the question: how to reply belongs to how the reply is read, not to the rubric.
_REPLY = {
    ("pairwise", "logprobs"): "Which answer is better? Reply with one letter, A or B, and nothing else.",
    ("pairwise", "json"): (
        'Which answer is better? Reply with one JSON object: "reasoning", a few sentences, and then "verdict", '
        'which is "A", "B" or "tie".'
    ),
    ("pointwise", "json"): (
        'Which grade does the answer deserve? Reply with one JSON object: "reasoning", a few sentences, and then '
        '"score", a whole number from 1 to 10.'
    ),
}


@dataclass(frozen=True, kw_only=True)
class Rubric:
    """A template ready for use: instructions is the system message, question has one placeholder for each part.

    signature names it in every cache key: its version and the hash of all that is said beside the parts.
    """

    name: str
    signature: str
    instructions: str
    question: str

    def render(self, parts: Mapping[str, str]) -> list[dict[str, str]]:
        """The messages, each part in its place; what stands in a part is never looked at for placeholders."""
        user = "".join(
            literal + (parts[name] if name else "") for literal, name, _, _ in string.Formatter().parse(self.question)
        )
        return [{"role": "system", "content": self.instructions}, {"role": "user", "content": user}]


def load_rubric(rubric: str, *, style: Style, method: Method) -> Rubric:
    """The built-in rubric of this name, or the one in the YAML file at this path.

    Raises UsageError, naming it, if a placeholder is missing, unknown or repeated, or if the file cannot be used.
    """
    path = _FOLDER / f"{rubric}.yaml" if rubric in BUILT_IN else Path(rubric)
    tree = _read(path, rubric)
    section = tree.get(style)
    if not isinstance(section, Mapping) or not all(
        isinstance(section.get(k), str) for k in ("instructions", "question")
    ):
        raise UsageError(
            f"judge.rubric {rubric} has no usable section {style!r}; give it the texts {style}.instructions and "
            f"{style}.question, or choose another judge.style"
        )
    principles = tree.get("principles", [])
    if not isinstance(principles, list) or not all(isinstance(one, str) and one.strip() for one in principles):
        raise UsageError(f"judge.rubric {rubric}: principles is {principles!r:.100}, expected a list of sentences")
    where = f"judge.rubric {rubric}: {style}"
    _check(f"{where}.instructions", section["instructions"], ("principles",) if principles else ())
    _check(f"{where}.question", section["question"], _NEEDED[style])
    numbered = "\n".join(f"{number}. {one.strip()}" for number, one in enumerate(principles, start=1))
    instructions = f"{section['instructions'].format(principles=numbered).strip()}\n\n{RULE}"
    question = f"{section['question'].strip()}\n\n{_REPLY[style, method]}"
    digest = hash_json([str(tree["version"]), instructions, question])
    name = path.stem
    return Rubric(
        name=name, signature=f"{name}-v{tree['version']}-{digest[:16]}", instructions=instructions, question=question
    )


def _read(path: Path, rubric: str) -> Mapping[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"judge.rubric is {rubric!r}, which is neither {', '.join(BUILT_IN)} nor a file that can be read "
            f"({error.strerror or type(error).__name__}); give one of these names or the path of a template"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"judge.rubric {rubric} is no YAML that can be read: {reason}; mend the file") from error
    if not isinstance(tree, Mapping) or not isinstance(tree.get("version"), int | str):
        raise UsageError(f"judge.rubric {rubric} has no version; begin the file with `version: 1`, and count it up")
    return tree


def _check(where: str, text: str, needed: tuple[str, ...]) -> None:
    try:
        fields = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(text)]
    except ValueError as error:
        raise UsageError(f"{where}: {error}; write {{{{ and }}}} for braces that are no placeholder") from error
    found = Counter(name for name, _, _ in fields if name is not None)
    for name in needed:
        if found[name] != 1:
            raise UsageError(
                f"{where} has the placeholder {{{name}}} {found[name]} times, expected once; "
                "put it where that part is to stand"
            )
    strange = sorted(found.keys() - set(needed)) or [name or "" for name, spec, how in fields if spec or how]
    if strange:
        known = ", ".join(f"{{{name}}}" for name in needed) or "none"
        raise UsageError(
            f"{where} has the placeholder {{{strange[0]}}}, expected {known}; mend it, or write {{{{ and }}}} for "
            "braces that are no placeholder"
        )
