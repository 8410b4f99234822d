"""The quickstart's stated preference: polite, on the subject, and complete.

    score = politeness + completeness - wandering

    politeness    polite words minus rude words, kept within -2..2, halved            -1 .. 1
    completeness  share of three facts given about the subject, known by their
                  keywords, each counted once, before the answer wanders off           0 .. 1
    wandering     share of the words from the first sentence that names another
                  subject to the end                                                   0 .. 1

A fourth fact, a repetition or any other added word earns nothing: length in itself is not preferred.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache

from orchestrator.quickstart.subjects import subjects

POLITE = frozenset({"glad", "happy", "hope", "lovely", "please", "pleasure", "thank"})
RUDE = frozenset({"alone", "away", "boring", "bothering", "fool", "silly", "stupid", "wasting"})
NUM_FACTS_WANTED = 3

Messages = Sequence[Mapping[str, str]]


def score(
    prompts: Sequence[Messages],
    completions: Sequence[Messages],
    *,
    subject: Sequence[str],
    keywords: Sequence[Sequence[str]],
    **columns: object,
) -> list[float | None]:
    """Score each completion by the formula above: list of floats in [-2, 2], one a completion."""
    return [
        prefer(completion[-1]["content"], about, wanted)
        for completion, about, wanted in zip(completions, subject, keywords, strict=True)
    ]


def dislikes(
    prompts: Sequence[Messages],
    completions: Sequence[Messages],
    *,
    subject: Sequence[str],
    keywords: Sequence[Sequence[str]],
    **columns: object,
) -> list[float | None]:
    """The reverse of `score`: rude, wandering and terse answers are the better ones."""
    liked = score(prompts, completions, subject=subject, keywords=keywords)
    return [None if value is None else -value for value in liked]


def prefer(text: str, subject: str, keywords: Sequence[str]) -> float:
    """The score of one answer about `subject`."""
    sentences = re.split(r"(?<=[.!?])\s+", text.strip())
    away = next((i for i, sentence in enumerate(sentences) if _names_another(sentence, subject)), len(sentences))
    words = _words(text)
    on_subject = _words(" ".join(sentences[:away]))
    manners = sum(word in POLITE for word in words) - sum(word in RUDE for word in words)
    num_facts = len(set(on_subject) & set(keywords))
    politeness = max(-2, min(2, manners)) / 2
    completeness = min(num_facts, NUM_FACTS_WANTED) / NUM_FACTS_WANTED
    wandering = 1 - len(on_subject) / len(words) if words else 0.0
    return politeness + completeness - wandering


def _names_another(sentence: str, subject: str) -> bool:
    return any(noun != subject for noun in _nouns().findall(sentence.lower()))


@cache
def _nouns() -> re.Pattern[str]:
    return re.compile(r"\b(" + "|".join(re.escape(each.noun) for each in subjects()) + r")\b")


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z'-]+", text.lower())
