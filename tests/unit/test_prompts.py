"""The order of prompts is a pure function, and everybody's turn comes."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollout.errors import UsageError
from rollout.prompts import PromptOrder, draw, prompt_id, prompt_set_hash, refuse_overlap
from rollout.types import Prompt


def make(name, **metadata):
    return Prompt(prompt_id=name, messages=({"role": "user", "content": name},), source=f"x:{name}", metadata=metadata)


def make_set(num, first=0):
    return tuple(make(f"p{number:03d}") for number in range(first, first + num))


def play(prompts, num, num_rounds, seed=0, drawn=()):
    drawn = list(drawn)
    for _ in range(num_rounds):
        drawn.append([prompt.prompt_id for prompt in draw(prompts, seed=seed, num=num, drawn=drawn)])
    return drawn


@st.composite
def games(draw_from):
    size = draw_from(st.integers(1, 12))
    return size, draw_from(st.integers(1, size)), draw_from(st.integers(1, 9)), draw_from(st.integers(0, 99))


@given(game=games(), shuffle=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_draw_is_a_pure_function_of_the_set_and_the_history(game, shuffle):
    size, num, num_rounds, seed = game
    prompts = make_set(size)
    drawn = play(prompts, num, num_rounds, seed)
    shuffled = list(prompts)
    shuffle.shuffle(shuffled)
    assert play(shuffled, num, num_rounds, seed) == drawn


@given(game=games(), num_new=st.integers(0, 5))
@settings(max_examples=60, deadline=None)
def test_an_order_that_is_kept_goes_on_as_one_that_is_made_anew(game, num_new):
    size, num, num_rounds, seed = game
    history = play(make_set(size), num, num_rounds, seed)
    prompts = make_set(size + num_new)
    order = PromptOrder(prompts, seed=seed, drawn=history)
    kept = [[prompt.prompt_id for prompt in order.draw(num)] for _ in range(7)]
    assert kept == play(prompts, num, 7, seed, drawn=history)[num_rounds:]


@given(game=games())
@settings(max_examples=60, deadline=None)
def test_every_prompt_comes_once_before_any_comes_twice_and_never_twice_in_a_round(game):
    size, num, num_rounds, seed = game
    counts = Counter({prompt.prompt_id: 0 for prompt in make_set(size)})
    for ids in play(make_set(size), num, num_rounds, seed):
        assert len(set(ids)) == len(ids) == num
        counts.update(ids)
        assert max(counts.values()) - min(counts.values()) <= 1


@given(game=games(), num_new=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_added_prompts_are_used_next_and_make_up_for_nothing(game, num_new):
    size, num, num_rounds, seed = game
    history = play(make_set(size), num, num_rounds, seed)
    new = {prompt.prompt_id for prompt in make_set(num_new, first=size)}
    later = play(make_set(size + num_new), num, 8, seed, drawn=history)[num_rounds:]
    counts = Counter(name for ids in later for name in ids)
    for name in new:
        # one turn ahead because it is new, one more where the last pass is cut short
        assert counts[name] <= max(counts[old.prompt_id] for old in make_set(size)) + 2
    flat = [name for ids in later for name in ids]
    if len(flat) >= size + num_new:
        assert new <= set(flat[: size + num_new])


def test_another_seed_gives_another_order():
    assert play(make_set(50), 50, 1, seed=1) != play(make_set(50), 50, 1, seed=2)


def test_each_pass_has_an_order_of_its_own():
    first, second = play(make_set(50), 50, 2)
    assert first != second
    assert set(first) == set(second)


def test_added_prompts_do_not_push_the_least_used_of_the_others_back():
    drawn = [["p000", "p001"], ["p002", "p003"], ["p000", "p001"]]
    chosen = [{prompt.prompt_id for prompt in draw(make_set(8), seed=seed, num=3, drawn=drawn)} for seed in range(20)]
    assert any({"p002", "p003"} & ids for ids in chosen)
    assert not any({"p000", "p001"} & ids for ids in chosen)


def test_prompts_that_left_the_set_do_not_matter():
    drawn = [["gone", "p000"], ["gone"], ["gone"]]
    for seed in range(20):
        assert [prompt.prompt_id for prompt in draw(make_set(2), seed=seed, num=1, drawn=drawn)] == ["p001"]


def test_more_than_there_are_is_refused():
    with pytest.raises(UsageError, match=r"draws 4 prompts and the set has 3"):
        draw(make_set(3), seed=0, num=4, drawn=[])


def test_overlap_of_training_and_held_out_prompts_is_refused_by_name():
    refuse_overlap(make_set(3), make_set(3, first=3))
    with pytest.raises(UsageError, match=r"1 prompts .* p002"):
        refuse_overlap(make_set(3), make_set(3, first=2))


def test_the_set_hash_sees_metadata_but_no_order():
    a, b = make("a", answer=1), make("b")
    assert prompt_set_hash([a, b]) == prompt_set_hash([b, a])
    assert prompt_set_hash([a, b]) != prompt_set_hash([make("a", answer=2), b])


def test_a_prompt_is_named_by_its_messages():
    hello = [{"role": "user", "content": "hello"}]
    assert prompt_id(hello) == prompt_id([dict(hello[0])]) != prompt_id([{"role": "system", "content": "hello"}])
    assert len(prompt_id(hello)) == 24
