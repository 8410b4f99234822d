"""The subjects of the quickstart's corpus, parsed from the two vocabularies."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from orchestrator.quickstart.made_things import MADE_THINGS
from orchestrator.quickstart.natural_things import NATURAL_THINGS

_ENTRY = re.compile(r"^(?P<name>[^:(]+?)(?P<plural> \(they\))?: (?P<facts>.+)$")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """Something to talk about: its name with its article, its pronoun, and facts with one keyword each."""

    name: str
    pronoun: str
    facts: tuple[str, ...]
    keywords: tuple[str, ...]

    @property
    def noun(self) -> str:
        """The name without its article."""
        return re.sub(r"^(an?|the) ", "", self.name)


@cache
def subjects() -> tuple[Subject, ...]:
    """All subjects, in a fixed order."""
    return tuple(_parse(MADE_THINGS)) + tuple(_parse(NATURAL_THINGS))


def _parse(text: str) -> Iterator[Subject]:
    for line in re.sub(r"\n +", " ", text.strip()).split("\n"):
        entry = _ENTRY.match(line)
        if entry is None:
            raise ValueError(f"not an entry of the vocabulary: {line!r}")
        marked = entry["facts"].split("; ")
        yield Subject(
            name=entry["name"],
            pronoun="they" if entry["plural"] else "it",
            facts=tuple(fact.replace("*", "") for fact in marked),
            keywords=tuple(re.findall(r"\*(\w+)\*", fact)[0] for fact in marked),
        )
