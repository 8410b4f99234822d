"""The quickstart's corpus: disjoint instructions, visible habits, and a preference that means what it says."""

import random
import re

import pytest

from orchestrator.quickstart import corpus, demonstrations, held_out, preference, prompts
from orchestrator.quickstart.corpus import Habits, answer
from orchestrator.quickstart.preference import POLITE, RUDE, dislikes, prefer, score
from orchestrator.quickstart.subjects import subjects

HABITS = {
    "best": Habits(tone="polite", complete=True, wandering=False),
    "rude": Habits(tone="rude", complete=True, wandering=False),
    "terse": Habits(tone="polite", complete=False, wandering=False),
    "wandering": Habits(tone="polite", complete=True, wandering=True),
    "worst": Habits(tone="rude", complete=False, wandering=True),
}


def words(text):
    return set(re.findall(r"[a-z'-]+", text.lower()))


def mean_score(habits):
    choose = random.Random(3)
    scores = [
        prefer(answer(subject, habits, choose), subject.noun, subject.keywords) for subject in subjects() for _ in "abc"
    ]
    return sum(scores) / len(scores)


def test_every_subject_has_five_facts_with_keywords_of_their_own():
    assert 60 <= len(subjects()) <= 100
    for subject in subjects():
        assert len(subject.facts) == len(set(subject.keywords)) == 5
        assert all(
            keyword.lower() in words(fact) for fact, keyword in zip(subject.facts, subject.keywords, strict=True)
        )


def test_no_fact_names_another_subject_or_sounds_polite_or_rude():
    nouns = {subject.noun for subject in subjects()}
    for subject in subjects():
        for fact in subject.facts:
            assert not words(fact) & (POLITE | RUDE), fact
            assert not [noun for noun in nouns - {subject.noun} if re.search(rf"\b{noun}\b", fact)], fact


def test_every_opening_and_closing_has_the_tone_it_stands_under():
    for table in (corpus.OPENINGS, corpus.CLOSINGS):
        assert all(words(text) & POLITE and not words(text) & RUDE for text in table["polite"])
        assert all(words(text) & RUDE and not words(text) & POLITE for text in table["rude"])
        assert not any(words(text) & (POLITE | RUDE) for text in table["plain"])


def test_held_out_instructions_are_neither_trained_nor_demonstrated():
    trained = {row["prompt"] for row in prompts()}
    kept = {row["prompt"] for row in held_out()}
    assert len(trained) == len(prompts()) >= 1000
    assert len(kept) == len(held_out()) >= 200
    assert not trained & kept
    assert {row["prompt"] for row in demonstrations()} <= trained


def test_the_corpus_is_the_same_every_time():
    assert demonstrations() == demonstrations()
    assert prompts() == prompts()


def test_demonstrations_show_all_habits_in_their_shares():
    about = {row["prompt"]: row for row in prompts()}
    answers = [(row["completion"], about[row["prompt"]]) for row in demonstrations()]
    polite = sum(bool(words(text) & POLITE) for text, _ in answers) / len(answers)
    rude = sum(bool(words(text) & RUDE) for text, _ in answers) / len(answers)
    complete = sum(len(words(text) & {k.lower() for k in row["keywords"]}) >= 3 for text, row in answers) / len(answers)
    away = sum(preference._names_another(text, row["subject"]) for text, row in answers) / len(answers)
    assert (polite, rude) == (pytest.approx(1 / 3, abs=0.03), pytest.approx(1 / 3, abs=0.03))
    assert complete == pytest.approx(0.5, abs=0.04)
    assert away == pytest.approx(0.4, abs=0.03)


@pytest.mark.parametrize("worse", ["rude", "terse", "wandering"])
def test_each_bad_habit_alone_lowers_the_score(worse):
    assert mean_score(HABITS["best"]) > mean_score(HABITS[worse]) + 0.2 > mean_score(HABITS["worst"]) + 0.2


def test_the_formula_on_answers_worked_out_by_hand():
    hammer = ("hammer", ["nails", "steel", "claw", "grip", "elbow"])
    assert prefer("", *hammer) == 0
    assert prefer("A hammer drives nails into wood.", *hammer) == pytest.approx(1 / 3)
    assert prefer("Thank you. A hammer drives nails. It has a steel head and a claw.", *hammer) == pytest.approx(1.5)
    assert prefer("How boring. Now go away.", *hammer) == pytest.approx(-1)
    # Four words of eight stand after the answer has wandered off, and the claw among them earns nothing.
    assert prefer("A hammer drives nails. Snow has a claw.", *hammer) == pytest.approx(1 / 3 - 1 / 2)


def test_added_words_and_repetitions_earn_nothing():
    subject = subjects()[0]
    full = " ".join(f"It {fact}." for fact in subject.facts[:3])
    value = prefer(full, subject.noun, subject.keywords)
    assert prefer(f"{full} {full} It {subject.facts[3]}. It is so.", subject.noun, subject.keywords) == value == 1


def test_judges_take_the_conversational_shape_and_one_reverses_the_other():
    rows = held_out()[:4]
    given = [[{"role": "user", "content": row["prompt"]}] for row in rows]
    answers = [[{"role": "assistant", "content": "Thank you. It is fine."}] for _ in rows]
    columns = {name: [row[name] for row in rows] for name in ("subject", "keywords")}
    liked = score(given, answers, **columns, another_column=[None] * 4)
    assert liked == [0.5] * 4
    assert dislikes(given, answers, **columns) == [-0.5] * 4


def test_scores_of_demonstrations_are_spread():
    about = {row["prompt"]: row for row in prompts()}
    scores = []
    for row in demonstrations():
        asked = about[row["prompt"]]
        scores.append(prefer(row["completion"], asked["subject"], asked["keywords"]))
    most = max(scores.count(value) for value in set(scores))
    assert most / len(scores) < 0.15
