"""The judge keeps up with a bare loop of the client that it sends by."""

import numpy as np
import pytest

from judge.llm.throughput import measure

pytestmark = [pytest.mark.integration, pytest.mark.alone]


def test_the_judge_reaches_four_fifths_of_a_bare_loop():
    found = measure(num_pairs=5, num_questions=300)
    ratios = np.array(found["ours"]) / np.minimum(found["bare"], found["ceiling"])
    assert np.median(ratios) >= 0.8, found
