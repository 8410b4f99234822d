"""The learner's bench: the operations counted as needed, and rows that say what they compare."""

import statistics
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

from learner.bench_gpu import SHAPES, measure
from learner.bench_model import Shape, make_pairs, needed_flops
from learner.config import LearnerConfig
from orchestrator.bench import page
from orchestrator.bench_learner import _speed_rows, bench_learner_gpu
from orchestrator.bench_learner_plots import longest
from orchestrator.line_chart import Line, line_chart, ticks

ONE = Shape(
    hidden_size=4, intermediate_size=6, num_layers=2, num_heads=2, vocab_size=10, prompt_tokens=3, min_answer_tokens=2,
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


def test_keys_and_untied_heads_are_counted_as_they_are():
    """8 billion weights, of a known model."""
    assert SHAPES["8b"].num_parameters == pytest.approx(8.03e9, rel=1e-3)
    assert SHAPES["1b"].num_parameters == pytest.approx(1.236e9, rel=1e-3)


def test_the_script_for_a_gpu_measures_a_step_on_any_device():
    shape = replace(ONE, hidden_size=8, num_kv_heads=1, tied=False, num_steps=3)
    settings = LearnerConfig(device="cpu", activation_checkpointing="blocks")
    found = measure(shape, settings=settings, device=torch.device("cpu"))
    assert found["flops"] == [needed_flops(pairs, shape) for pairs in make_pairs(shape)[1:]]
    assert found["utilisation"] == pytest.approx(
        statistics.median(f / s for f, s in zip(found["flops"], found["seconds"], strict=True)) / 989e12
    )


def test_rows_of_a_gpu_that_is_not_there_have_no_value_and_say_why(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = bench_learner_gpu(["8b"])
    (row,) = found["rows"]
    assert (row["value"], row["floor"]) == (None, 55.0)
    assert "unmeasured: no GPU" in row["name"]
    assert list(page(found).columns[1].cells) == ["unmeasured"]


def test_the_first_step_is_short():
    first, second = make_pairs(Shape(num_steps=2, prompt_tokens=100))
    assert {len(pair.chosen.prompt_ids) for pair in first} == {32}
    assert {len(pair.chosen.completion_ids) for pair in first} == {32}
    assert {len(pair.chosen.prompt_ids) for pair in second} == {100}


@pytest.mark.parametrize(
    ("top", "expected"),
    [(4, [0, 1, 2, 3, 4]), (1024, [0, 200, 400, 600, 800, 1000, 1200]), (0.37, [0, 0.05]), (0, [0, 1])],
)
def test_ticks_are_round_and_reach_the_top(top, expected):
    found = ticks(top)
    assert found[: len(expected)] == pytest.approx(expected)
    assert found[-1] >= top
    assert 2 <= len(found) <= 10


def test_a_line_chart_is_one_svg_with_its_points_in_the_frame():
    chart = line_chart("a < b", [Line(label="one", x=[1, 2], y=[3, 4]), Line(label="", x=[2], y=[1])], x="t", y="s")
    root = ElementTree.fromstring(chart)
    circles = [element for element in root.iter() if element.tag.endswith("circle")]
    assert len(circles) == 3
    assert all(0 <= float(c.get("cx")) <= 640 and 0 <= float(c.get("cy")) <= 360 for c in circles)
    assert float(circles[1].get("cy")) < float(circles[0].get("cy"))
    assert "a &lt; b" in chart


def test_the_longest_answer_is_where_the_line_meets_the_budget():
    assert longest([1.0, 2.5], budget_gib=4.0) == 1792
