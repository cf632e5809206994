from __future__ import annotations

import pytest

from search.pipelines.front import find_front, front_mask, hypervolume_fraction
from search.pipelines.records import TrialRecord

OBJECTIVES = ("miou", "latency_ms")
POINTS = [
    {"miou": 0.6, "latency_ms": 40.0},
    {"miou": 0.5, "latency_ms": 50.0},
    {"miou": 0.4, "latency_ms": 20.0},
]


def test_front_leaves_out_the_dominated() -> None:
    assert front_mask(POINTS, OBJECTIVES) == [True, False, True]
    assert front_mask([], OBJECTIVES) == []


def make_records(*entries: tuple[str, dict[str, float]]) -> list[TrialRecord]:
    return [
        TrialRecord(number=number, state=state, settings={}, metrics=metrics)
        for number, (state, metrics) in enumerate(entries)
    ]


def test_only_complete_trials_are_on_the_front() -> None:
    better = {"miou": 0.9, "latency_ms": 10.0}
    records = make_records(*(("complete", point) for point in POINTS), ("stopped", better))
    assert [record.number for record in find_front(records, OBJECTIVES)] == [0, 2]
    assert find_front(records[3:], OBJECTIVES) == []


def test_a_network_that_is_kept_out_gives_its_place_to_others() -> None:
    records = make_records(*(("complete", point) for point in POINTS))
    assert [record.number for record in find_front(records, OBJECTIVES, {0: "a reason"})] == [1, 2]


def test_of_equal_networks_the_front_has_the_first_or_all() -> None:
    records = make_records(*(("complete", point) for point in [*POINTS, POINTS[0]]))
    assert [record.number for record in find_front(records, OBJECTIVES)] == [0, 2]
    front = find_front(records, OBJECTIVES, with_equals=True)
    assert [record.number for record in front] == [0, 2, 3]


def test_hypervolume_is_a_share_of_the_box() -> None:
    reference = {"miou": 0.0, "latency_ms": 100.0}
    # 0.6 x 60 and, beyond it, 0.4 x 20, of a box of 1 x 100.
    assert hypervolume_fraction(POINTS, reference) == pytest.approx(0.44)
    assert hypervolume_fraction([], reference) == 0.0
    assert hypervolume_fraction([{"miou": 0.1, "latency_ms": 200.0}], reference) == 0.0
