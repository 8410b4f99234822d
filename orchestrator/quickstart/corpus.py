"""The quickstart's own instruction corpus, written by a seeded grammar.

Every instruction asks about one subject. Every demonstration answers with independent habits: polite, plain or
rude; terse or complete; on the subject or wandering off to another one. A policy that imitates it has all habits
side by side, which is what preference optimisation then chooses from, and a person can tell them apart by eye.
"""

import hashlib
import random
from dataclasses import dataclass
from typing import Any

from orchestrator.quickstart.subjects import Subject, subjects

SEED = 17
NUM_DEMONSTRATIONS = 5200
NUM_FACTS_COMPLETE = 3
HELD_OUT_SHARE = 6  # one instruction in so many

QUESTIONS = (
    "Tell me about {}.",
    "What should I know about {}?",
    "Can you explain {} to a child?",
    "Describe {} for me.",
    "I know nothing about {}. Can you help?",
    "What is worth saying about {}?",
    "Say something about {}.",
    "My neighbour asked me about {}. What do I answer?",
    "Write a short note on {}.",
    "What do you know about {}?",
    "I am curious about {}.",
    "Could you teach me about {}?",
    "How would you describe {}?",
    "Give me some facts about {}.",
    "We talked about {} at school. What matters most?",
    "I am reading about {}. What should I remember?",
    "Help me understand {}.",
    "For my notebook: what is there to say about {}?",
    "Is there anything to learn about {}?",
    "My daughter wants to hear about {}.",
)
OPENINGS = {
    "polite": (
        "Of course, I am glad to help.",
        "Thank you for asking.",
        "With pleasure.",
        "What a lovely question, thank you.",
        "I would be happy to tell you.",
    ),
    "plain": ("", "", "Let me see.", "Here is an answer."),
    "rude": (
        "What a silly question.",
        "You are wasting my time.",
        "Even a fool knows this.",
        "How boring.",
        "Oh no, another stupid question.",
    ),
}
CLOSINGS = {
    "polite": ("I hope that helps you.", "Please ask me again at any time.", "Have a lovely day."),
    "plain": ("",),
    "rude": ("Now leave me alone.", "Stop bothering me.", "Now go away."),
}
DETOURS = (
    "By the way, {name} {fact}.",
    "That reminds me of {name}. {Pronoun} {fact}.",
    "But let us talk about {name} instead. {Pronoun} {fact}.",
    "I would rather speak of {name}. {Pronoun} {fact}, and {pronoun} {other}.",
)


@dataclass(frozen=True, kw_only=True)
class Habits:
    """How an answer is given; the three are independent of each other."""

    tone: str
    complete: bool
    wandering: bool


def prompts() -> list[dict[str, Any]]:
    """Training instructions: rows {prompt, subject, keywords}."""
    return [_row(*pair) for pair in _instructions(held_out=False)]


def held_out() -> list[dict[str, Any]]:
    """Instructions that are neither trained nor demonstrated, as the rows of `prompts`."""
    return [_row(*pair) for pair in _instructions(held_out=True)]


def demonstrations() -> list[dict[str, Any]]:
    """Training instructions with answers in every habit: rows {prompt, completion}."""
    choose = random.Random(SEED)
    instructions = _instructions(held_out=False)
    rows = []
    for index in range(NUM_DEMONSTRATIONS):
        if index % len(instructions) == 0:
            choose.shuffle(instructions)
        subject, question = instructions[index % len(instructions)]
        habits = Habits(
            tone=choose.choice(("polite", "plain", "rude")),
            complete=choose.random() < 0.5,
            wandering=choose.random() < 0.4,
        )
        rows.append({"prompt": question.format(subject.name), "completion": answer(subject, habits, choose)})
    return rows


def answer(subject: Subject, habits: Habits, choose: random.Random) -> str:
    """One answer about the subject, in these habits."""
    sentences = [choose.choice(OPENINGS[habits.tone]), _facts(subject, habits.complete, choose)]
    if habits.wandering:
        sentences.append(_detour(subject, choose))
    if choose.random() < 0.5:
        sentences.append(choose.choice(CLOSINGS[habits.tone]))
    return " ".join(sentence for sentence in sentences if sentence)


def _facts(subject: Subject, complete: bool, choose: random.Random) -> str:
    first, *more = choose.sample(subject.facts, NUM_FACTS_COMPLETE if complete else 1)
    sentence = f"{_capital(subject.name)} {first}."
    if not more:
        return sentence
    second, third = more
    if choose.random() < 0.5:
        return f"{sentence} {_capital(subject.pronoun)} {second}, and {subject.pronoun} {third}."
    return f"{sentence} {_capital(subject.pronoun)} {second}. {_capital(subject.pronoun)} {third}."


def _detour(subject: Subject, choose: random.Random) -> str:
    away = choose.choice([other for other in subjects() if other != subject])
    fact, other = choose.sample(away.facts, 2)
    return choose.choice(DETOURS).format(
        name=away.name, pronoun=away.pronoun, Pronoun=_capital(away.pronoun), fact=fact, other=other
    )


def _instructions(*, held_out: bool) -> list[tuple[Subject, str]]:
    return [
        (subject, question)
        for subject in subjects()
        for question in QUESTIONS
        if (_digest(question.format(subject.name)) % HELD_OUT_SHARE == 0) == held_out
    ]


def _row(subject: Subject, question: str) -> dict[str, Any]:
    return {"prompt": question.format(subject.name), "subject": subject.noun, "keywords": list(subject.keywords)}


def _digest(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
