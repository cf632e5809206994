from __future__ import annotations

import pytest

from search.pipelines.front import front_mask, hypervolume_fraction

OBJECTIVES = ("miou", "latency_ms")
POINTS = [
    {"miou": 0.6, "latency_ms": 40.0},
    {"miou": 0.5, "latency_ms": 50.0},
    {"miou": 0.4, "latency_ms": 20.0},
]


def test_front_leaves_out_the_dominated() -> None:
    assert front_mask(POINTS, OBJECTIVES) == [True, False, True]
    assert front_mask([], OBJECTIVES) == []


def test_hypervolume_is_a_share_of_the_box() -> None:
    reference = {"miou": 0.0, "latency_ms": 100.0}
    # 0.6 x 60 and, beyond it, 0.4 x 20, of a box of 1 x 100.
    assert hypervolume_fraction(POINTS, reference) == pytest.approx(0.44)
    assert hypervolume_fraction([], reference) == 0.0
    assert hypervolume_fraction([{"miou": 0.1, "latency_ms": 200.0}], reference) == 0.0
