"""The learner's bench: the operations counted as needed, and rows that say what they compare."""

import pytest

from learner.bench_model import Shape, make_pairs, needed_flops
from orchestrator.bench_learner import _speed_rows

ONE = Shape(
    hidden_size=4, intermediate_size=6, num_layers=2, vocab_size=10, prompt_tokens=3, min_answer_tokens=2,
    max_answer_tokens=2, pairs_per_step=2, pairs_per_prompt=2, num_steps=1,
)  # fmt: skip


def test_needed_operations_count_a_shared_prompt_once():
    """By hand: 3 + 4 tokens are fed, 8 are predicted; a prompt's 6 pairs are seen and 4 by each answer's one token."""
    (pairs,) = make_pairs(ONE)
    layer = 2 * (4 * 16 + 3 * 24) * 7 + 4 * 4 * (6 + 4 * 4)
    assert needed_flops(pairs, ONE) == 4 * (2 * layer + 2 * 4 * 10 * 8)


def test_the_same_steps_are_the_same_pairs():
    first, again = make_pairs(Shape(num_steps=2)), make_pairs(Shape(num_steps=2))
    assert [len(step) for step in first] == [4, 4]
    assert [[p.chosen.completion_ids.tolist() for p in step] for step in first] == [
        [p.chosen.completion_ids.tolist() for p in step] for step in again
    ]
    assert len({pair.chosen.prompt_ids.tobytes() for step in first for pair in step}) == 8


def test_rows_leave_the_first_step_out_and_say_in_which_dtype_ours_computed():
    found = {
        "compute_dtype": "float32",
        "ours": {"seconds": [99.0, 1.0, 2.0, 1.0]},
        "trl": {"seconds": [99.0, 4.0, 4.0, 4.0]},
        "flops": [10.0] * 4,
        "gemm_flops_per_s": [20.0] * 4,
    }
    speed, step = _speed_rows("prompt 1", "bfloat16", found, num_per_step=4, floor=3.0)
    assert (speed.value, speed.peer_value, speed.ratio, speed.floor) == (4.0, 1.0, 4.0, 3.0)
    assert (step.value, step.peer_value) == (2.0, pytest.approx(8.0))
    assert "ours auto: float32" in speed.name
